"""What a plan is made for: machines with their prices, and what is known of a corpus. Plain data from one YAML file."""

from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from pangu.config import Frozen
from pangu.errors import UserError


class Device(Frozen):
    """One accelerator."""

    name: str = Field(min_length=1)
    peak_tflops: float = Field(gt=0, description="Dense operations of the training precision, 1e12 a second")
    utilisation: float = Field(0.35, gt=0, le=1, description="Share of the peak that training reaches")
    price_per_hour: float = Field(0.0, ge=0)
    memory_gib: float | None = Field(
        None, gt=0, description="What torch sees of it; a plan refuses jobs that need more"
    )


class Cluster(Frozen):
    """The machines."""

    name: str = Field(min_length=1)
    cores: int = Field(ge=1, description="CPU cores, all machines together")
    core_speed: float = Field(1.0, gt=0, description="Of one core, where that of the calibrated machine is 1")
    core_price_per_hour: float = Field(0.0, ge=0)
    devices: int = Field(0, ge=0, description="Accelerators; 0: everything runs on the cores")
    device: Device | None = None
    download_mbit_per_s: float = Field(1000.0, gt=0, description="Bandwidth of the download, all machines together")
    storage_price_per_tb_month: float = Field(0.0, ge=0)
    currency: str = "$"


class Corpus(Frozen):
    """What images the table of URLs will bring; whatever is left out is taken from this installation's own datasets."""

    rows: int | None = Field(None, ge=1, description="URLs listed")
    ok_share: float | None = Field(None, gt=0, le=1, description="URLs that bring an image")
    kept_share: float | None = Field(None, gt=0, le=1, description="Images that pass filters and dedupe")
    small_share: float | None = Field(None, ge=0, le=1, description="Kept images that are upscaled")
    image_bytes: float | None = Field(None, gt=0, description="Bytes of a downloaded image")
    row_bytes: float | None = Field(None, gt=0, description="Bytes of a row of the dataset table")
    megapixels: float | None = Field(None, gt=0, description="Of a downloaded image")
    sources: dict[str, str] = Field({}, description="Where each number comes from")


class Spec(Frozen):
    """The file that `pangu plan --cluster` reads."""

    cluster: Cluster
    corpus: Corpus = Corpus()


def load_spec(path: Path) -> Spec:
    """Read a plan's YAML file.

    Raises:
        UserError: it is not there, is no YAML, or a field is wrong; the sentence names the field.
    """
    try:
        spec = Spec.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path} can not be read as a cluster: {str(error).splitlines()[0]}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(f"{path}: {where}: {first['msg']}; infra/clusters has examples.") from error
    if spec.cluster.devices and spec.cluster.device is None:
        raise UserError(f"{path}: cluster.device must say what the {spec.cluster.devices} devices are.")
    return spec
