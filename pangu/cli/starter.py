"""`pangu starter ...`: makes again what `pangu/assets` holds."""

from pathlib import Path
from typing import Annotated

import typer

FolderOption = Annotated[Path, typer.Option(help="Where to put it; copy it to pangu/assets to embed it.")]
ArtistsOption = Annotated[
    Path | None,
    typer.Option(
        help="A node_modules folder with the packages of the other artists, whose drawings it learns from, too."
    ),
]
MinutesOption = Annotated[float, typer.Option(min=0.05, help="Minutes of one core to train for, however busy it is.")]


def register(app: typer.Typer) -> None:
    """Add this part's commands to `app`."""
    starter = typer.Typer(help="Make the embedded encoders and the starter pair again.", no_args_is_help=True)
    starter.command()(autoencoder)
    starter.command()(text_encoder)
    starter.command()(pair)
    starter.command()(adopt)
    starter.command()(tune)
    starter.command()(style)
    starter.command()(styles)
    starter.command()(judge_autoencoder)
    app.add_typer(starter, name="starter")


def autoencoder(
    folder: FolderOption,
    minutes: MinutesOption = 25.0,
    init_from: Annotated[
        Path | None, typer.Option(help="Go on from this autoencoder instead of random weights.")
    ] = None,
    spatial_factor: Annotated[int, typer.Option(help="Pixels per latent along one side: 4 or 8.")] = 8,
    latent_channels: Annotated[int, typer.Option(min=1, help="Channels of the latents.")] = 16,
    side: Annotated[int, typer.Option(min=24, help="Pixels per side of the pictures it learns from.")] = 96,
    artists: ArtistsOption = None,
    keep_latents: Annotated[
        bool,
        typer.Option(
            help="OpenMoji's drawings keep the latents that --init-from makes of them, and denoisers can stay what they are."
        ),
    ] = False,
) -> None:
    """Train an autoencoder on drawings of emoji: with the defaults the embedded one, or one of another latent space."""
    import torch

    from pangu.progress import print_progress
    from pangu.starter.autoencoder import train_autoencoder
    from pangu.starter.learning_material import material, pixels

    torch.set_num_threads(1)
    images = torch.from_numpy(pixels(material(artists), side))
    kept = torch.from_numpy(pixels(material(), side)) if keep_latents else None
    shape = {"spatial_factor": spatial_factor, "latent_channels": latent_channels}
    psnr = train_autoencoder(images, minutes, folder, init_from, report=print_progress, kept_nhwc=kept, **shape)
    typer.echo(f"PSNR {psnr:.2f} dB")


def text_encoder(
    folder: FolderOption,
    minutes: MinutesOption = 36.0,
    artists: ArtistsOption = None,
    successor_of: Annotated[
        str | None,
        typer.Option(
            help="A pair's folder, or 'embedded': learn to say of any wording what its encoder says of the caption, so that its "
            "denoisers stay what they are; with OpenMoji's drawings alone.",
        ),
    ] = None,
    init_from: Annotated[Path | None, typer.Option(help="Go on from this successor instead of random weights.")] = None,
    names: Annotated[
        bool,
        typer.Option(help="With --successor-of: teach its own encoder names of things that no drawing shows."),
    ] = False,
    share: Annotated[
        float,
        typer.Option(min=0, max=1, help="With --names: how far to go from that encoder to the one that was learnt."),
    ] = 1.0,
) -> None:
    """Train the embedded text encoder on drawings of emoji and their names in both languages."""
    import torch

    from pangu.errors import UserError
    from pangu.progress import print_progress
    from pangu.starter.learning_material import material, openmoji_alone, pixels
    from pangu.starter.text_encoder import train_text_encoder

    if names and successor_of is None:
        raise UserError("--names teaches a pair's own encoder; name the pair, e.g. --successor-of embedded.")
    torch.set_num_threads(1)
    drawings = material(artists)
    if successor_of is None:
        images = torch.from_numpy(pixels(drawings, 96))
        loss = train_text_encoder(drawings, images, minutes, folder, report=print_progress)
    else:
        from pangu.pipelines.pangu_draw import PanGuDrawPipeline
        from pangu.starter.successor import latents_of, teach_names, train_successor

        teaching, drawings = PanGuDrawPipeline.from_pretrained(successor_of), openmoji_alone(drawings)
        latents = latents_of(
            teaching.vae, torch.from_numpy(pixels(drawings, teaching.contract("structure").resolution))
        )
        if names:
            loss = teach_names(teaching, drawings, latents, minutes, folder, init_from, share, report=print_progress)
        else:
            loss = train_successor(teaching, drawings, latents, minutes, folder, init_from, report=print_progress)
    typer.echo(f"loss {loss:.4f}")


def pair(
    folder: FolderOption,
    structure: Annotated[Path, typer.Option(help="Generator folder that recipe 'starter' trained for structure.")],
    texture: Annotated[Path, typer.Option(help="Generator folder that recipe 'starter' trained for texture.")],
) -> None:
    """Pack two trained generators as the embedded starter pair, in half precision."""
    from pangu.recipes import starter
    from pangu.starter.pair import pack_pair

    typer.echo(f"{pack_pair(structure, texture, starter(), folder) / 1e6:.2f} MB of weights")


def adopt(
    folder: FolderOption,
    autoencoder: Annotated[Path, typer.Option(help="One that `pangu starter autoencoder --keep-latents` made.")],
    text_encoder: Annotated[Path, typer.Option(help="One that `pangu starter text-encoder --successor-of` made.")],
    of: Annotated[str, typer.Option("--of", help="The pair: a folder, or 'embedded'.")] = "embedded",
) -> None:
    """Give a pair other encoders that say the same, and refuse them where they do not."""
    import json

    import torch

    from pangu.pipelines.pangu_draw import PanGuDrawPipeline
    from pangu.starter.learning_material import material, pixels
    from pangu.starter.pair import adopt as adopt_encoders

    teaching, drawings = PanGuDrawPipeline.from_pretrained(of), material()[::10]
    images = torch.from_numpy(pixels(drawings, teaching.contract("structure").resolution)).repeat(2, 1, 1, 1)
    captions = [one.caption_en for one in drawings] + [one.caption_zh for one in drawings]
    found = adopt_encoders(teaching, autoencoder, text_encoder, images, captions, folder)
    typer.echo(json.dumps({name: round(value, 4) for name, value in found.items()}))


def tune(
    folder: FolderOption,
    role: Annotated[str, typer.Option(help="structure or texture; each in a process of its own.")],
    artists: Annotated[Path, typer.Option(help="A node_modules folder, whose keywords it meets.")],
    minutes: MinutesOption = 15.0,
) -> None:
    """Train a half of the embedded pair on while the embedded text encoder reads; `pangu starter pair` packs both."""
    import torch

    from pangu.config import ROLES
    from pangu.errors import UserError
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline
    from pangu.progress import print_progress
    from pangu.starter.learning_material import material, openmoji_alone, pixels
    from pangu.starter.successor import latents_of
    from pangu.starter.tuned_half import tune_half

    if role not in ROLES:
        raise UserError(f"role must be one of {', '.join(ROLES)}, not {role}.")
    torch.set_num_threads(1)
    pair, drawings = PanGuDrawPipeline.from_pretrained("embedded"), openmoji_alone(material(artists))
    latents = latents_of(pair.vae, torch.from_numpy(pixels(drawings, pair.contract("structure").resolution)))
    network = tune_half(pair, role, pair.text_towers[0], drawings, latents, minutes, report=print_progress)
    network.save_pretrained(folder, safe_serialization=True)
    pair.contract(role).save(folder)


def style(
    name: Annotated[
        str, typer.Argument(help="outline or flat, of OpenMoji's own layers, or another artist, e.g. noto.")
    ],
    folder: FolderOption,
    artists: ArtistsOption = None,
    structure_minutes: MinutesOption = 5.0,
    texture_minutes: MinutesOption = 5.0,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the adapters.")] = 16,
) -> None:
    """Train adapters with which the embedded pair draws in another style; FOLDER gets one for each half."""
    import torch

    from pangu.config import Role
    from pangu.models.lora import save_layers
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline
    from pangu.progress import print_progress
    from pangu.starter.learning_material import drawn_in
    from pangu.starter.style_half import style_half
    from pangu.starter.successor import latents_of

    torch.set_num_threads(1)
    pair = PanGuDrawPipeline.from_pretrained("embedded")
    drawings, images = drawn_in(name, artists, pair.contract("structure").resolution)
    latents = latents_of(pair.vae, torch.from_numpy(images))
    times: dict[Role, float] = {"structure": structure_minutes, "texture": texture_minutes}
    for role, minutes in times.items():
        layers = style_half(pair, role, drawings, latents, minutes, rank, report=print_progress)
        save_layers(layers, pair.contract(role), folder / role)


def styles(
    folder: FolderOption,
    style: Annotated[
        list[str],
        typer.Option(help="NAME=FOLDER, as `pangu starter style NAME --folder FOLDER` left it; may be given again."),
    ],
    texture_guidance: Annotated[
        float | None, typer.Option(min=0, max=50, help="Guidance of the texture half that the pair prefers.")
    ] = None,
) -> None:
    """Pack the embedded pair with adapters for further styles."""
    from pangu.errors import UserError
    from pangu.pipelines.pangu_draw import PanGuDrawPipeline
    from pangu.starter.pair import pack_styles

    given = [each.partition("=") for each in style]
    if bad := [name for name, _, where in given if not where]:
        raise UserError(f"--style must be NAME=FOLDER, not '{bad[0]}'.")
    pair = PanGuDrawPipeline.from_pretrained("embedded")
    size = pack_styles(pair, {name: Path(where) for name, _, where in given}, folder, texture_guidance)
    typer.echo(f"{size / 1e6:.2f} MB of weights")


def judge_autoencoder(
    artists: Annotated[
        Path,
        typer.Option(
            help="A node_modules folder with the packages of all artists and @iconify-json/fluent-emoji-flat."
        ),
    ],
    autoencoder: Annotated[str, typer.Option(help="An autoencoder's folder, or the embedded one.")] = "embedded",
    side: Annotated[int, typer.Option(min=24, help="Pixels per side.")] = 96,
    count: Annotated[int, typer.Option(min=1, help="Drawings of each artist.")] = 200,
) -> None:
    """Say how well an autoencoder brings back each artist's drawings, and those of one that nothing embedded learnt from."""
    import json

    from pangu.config import AutoencoderSource
    from pangu.models.autoencoders import load_autoencoder
    from pangu.starter.unseen_artist import psnr_by_artist

    model = load_autoencoder(AutoencoderSource(source=autoencoder))
    found = psnr_by_artist(model, artists, side, count)
    typer.echo(json.dumps({name: round(value, 2) for name, value in found.items()}))
