"use strict";
addWords({
  en: {
    hometitle: "PanGu", datasetstitle: "Datasets · PanGu", trainingtitle: "Training · PanGu", absenttitle: "Not here",
    absentabout: "There is no such page, dataset or version in this home. It may have been cleaned away.",
    releasehead: "What is drawn", flowshead: "Flows", partshead: "The stack", homehead: "This home",
    release: "Release {version}", servednow: "served now", servedother: "served now: release {version}", notserved: "not served; `pangu deploy` serves it", norelease: "Nothing has been released yet.",
    firststep: "From a folder of your own pictures to a served pair: `pangu new FOLDER`, then `pangu retrain NAME`. Without pictures: `make demo`.",
    madeon: "made {date}, from {dataset} version {version}", releasepictures: "What release {version} drew when it was evaluated", opendraw: "Draw with it", inmlflow: "In MLflow",
    noflows: "No flow has run yet. Prefect has a form for each: choose one and press Run.", running: "running", COMPLETED: "completed", FAILED: "failed", CRASHED: "crashed", CANCELLED: "cancelled", RUNNING: "running", PENDING: "pending", PAUSED: "waits for a person", SCHEDULED: "scheduled", CANCELLING: "being cancelled",
    noflowsanswer: "Prefect does not answer.", answers: "answers", silent: "does not answer", notdeployed: "not deployed", nostack: "No stack is running. Start it in a terminal: `pangu up`.",
    token: "Copy Ray's token", tokenabout: "Ray's dashboard asks for a token.", openprefect: "Prefect", openmlflow: "MLflow", openray: "Ray", openstudio: "Studio", openapi: "API", diskfree: "{free} GB of {total} GB are free", disklow: "Little room is left: `pangu dataset vacuum NAME` and `pangu down` with old runs deleted make some.",
    nodatasets: "No dataset has been prepared yet.", notrainings: "No training has begun in this home yet.", homeat: "Everything of this installation lies in {place}.", lasttraining: "Latest training: {run}",
    minutes: "{n} min", seconds: "{n} s", hours: "{n} h",
    versionsof: "Version", keptrows: "kept", droppedrows: "dropped", kept: "Kept", dropped: "Dropped", thresholds: "Thresholds", allreasons: "all", choose: "Choose a dataset.",
    previous: "Previous", next: "Next", pageof: "Page {page} of {pages}", norows: "There are no rows here.", gone: "Its picture can not be shown.", nothingdropped: "This version dropped nothing.",
    upscaled: "upscaled from {w} × {h}", original: "{w} × {h} px", heldout: "held out", nearest: "kept", droppedone: "dropped", differ: "{bits} of 64 bits differ, colours by {colour}", nocaption: "without a caption",
    thresholdsabout: "Change a threshold and see what this version would keep. Nothing is written before you make a new version.", withoutcard: "Thresholds can not be changed here:", nothreshold: "no limit", notmeasured: "no row has this score",
    counting: "Counting …", wouldkeep: "would be kept", wouldgo: "would go", wouldcome: "would come back", unchanged: "Nothing changes.", goingrows: "Would go", comingrows: "Would come back", make: "Make a new version", making: "Making it …", made: "Version {version} is made.", look: "Look at it", reset: "As it is",
    tokeep: "The card stays as it is. For the next preparing, write into it:", firsts: "the first {n}",
    small_side: "too small", aspect: "too long and narrow", caption_short: "caption too short", caption_long: "caption too long", caption_language: "caption in another language", text_overlay: "text in the picture", nsfw: "not safe", clip_score: "caption does not fit", aesthetic: "not pleasing", too_blurry: "too blurry", near_duplicate: "near duplicate", semantic_duplicate: "same to a model", in_other_dataset: "in another dataset",
    "t.min_side": "Smaller side, px, at least", "t.max_aspect": "Longer over shorter side, at most", "t.min_caption_length": "Longest caption, characters, at least", "t.max_caption_length": "Each caption, characters, at most", "t.min_english": "English captions: probability, at least", "t.min_chinese": "Chinese captions: share of Han, at least", "t.max_text_area": "Text in the picture: share, at most", "t.max_nsfw": "Exposed body parts: score, at most", "t.min_clip_score": "Caption fits: CLIP score, at least", "t.min_aesthetic": "Aesthetic score, at least", "t.max_min_timestep": "Lowest timestep of upscaled ones, at most", "t.near_duplicates.max_bits": "Near duplicates: bits of the hash that may differ", "t.near_duplicates.max_colour": "Near duplicates: difference of colours",
    structure: "Structure half", texture: "Texture half", step: "step {step} of {steps}", finished: "finished", live: "training", stopped: "stopped", losscurve: "Loss of {run}", nogrid: "No sample grid yet.", gridof: "Samples at step {step}", shownstep: "Sample grid", before: "Before", now: "Newest", imagespersecond: "{n} images/s", pairof: "{recipe} on {dataset}", nocurve: "No loss was logged yet.", ago: "{time} ago", compare: "Before and after, side by side", olderones: "Earlier trainings", sheet: "Before and after the last retraining of {dataset}",
  },
  zh: {
    hometitle: "PanGu 首页", datasetstitle: "数据集 · PanGu", trainingtitle: "训练 · PanGu", absenttitle: "这里没有",
    absentabout: "此安装中没有这个页面、数据集或版本，也许已被清理。",
    releasehead: "正在绘制的模型", flowshead: "流程", partshead: "服务", homehead: "此安装",
    release: "发布 {version}", servednow: "正在提供服务", servedother: "正在提供服务的是发布 {version}", notserved: "未提供服务；用 `pangu deploy` 部署", norelease: "还没有任何发布。",
    firststep: "从您自己的图片文件夹到可用的模型：先 `pangu new 文件夹`，再 `pangu retrain 名称`。没有图片时：`make demo`。",
    madeon: "{date} 由数据集 {dataset} 版本 {version} 训练", releasepictures: "发布 {version} 评估时所画", opendraw: "用它绘制", inmlflow: "在 MLflow 中查看",
    noflows: "还没有运行过流程。Prefect 为每个流程都备有表单：选一个，点击运行。", running: "运行中", COMPLETED: "已完成", FAILED: "失败", CRASHED: "崩溃", CANCELLED: "已取消", RUNNING: "运行中", PENDING: "等待中", PAUSED: "等待确认", SCHEDULED: "已安排", CANCELLING: "正在取消",
    noflowsanswer: "Prefect 没有回应。", answers: "正常", silent: "没有回应", notdeployed: "未部署", nostack: "服务没有运行。请在终端启动：`pangu up`。",
    token: "复制 Ray 令牌", tokenabout: "Ray 面板需要令牌。", openprefect: "Prefect", openmlflow: "MLflow", openray: "Ray", openstudio: "画室", openapi: "API", diskfree: "共 {total} GB，剩余 {free} GB", disklow: "磁盘空间不足：`pangu dataset vacuum 名称` 可清理旧版本，也可删除旧的训练。",
    nodatasets: "还没有准备好的数据集。", notrainings: "此安装中还没有训练。", homeat: "此安装的一切都在 {place}。", lasttraining: "最近的训练：{run}",
    minutes: "{n} 分钟", seconds: "{n} 秒", hours: "{n} 小时",
    versionsof: "版本", keptrows: "保留", droppedrows: "丢弃", kept: "保留", dropped: "丢弃", thresholds: "阈值", allreasons: "全部", choose: "选择一个数据集。",
    previous: "上一页", next: "下一页", pageof: "第 {page} 页，共 {pages} 页", norows: "这里没有图片。", gone: "图片无法显示。", nothingdropped: "此版本没有丢弃任何图片。",
    upscaled: "由 {w} × {h} 放大", original: "{w} × {h} 像素", heldout: "留作评估", nearest: "保留的", droppedone: "丢弃的", differ: "64 位中相差 {bits} 位，颜色相差 {colour}", nocaption: "没有说明文字",
    thresholdsabout: "改变阈值，看看此版本会保留什么。在您创建新版本之前不会写入任何内容。", withoutcard: "无法在此更改阈值：", nothreshold: "不限", notmeasured: "没有图片有此评分",
    counting: "正在统计……", wouldkeep: "会保留", wouldgo: "会丢弃", wouldcome: "会恢复", unchanged: "没有变化。", goingrows: "会丢弃的", comingrows: "会恢复的", make: "创建新版本", making: "正在创建……", made: "版本 {version} 已创建。", look: "查看", reset: "恢复原样",
    tokeep: "卡片文件没有改变。若要下次准备数据时也如此，请写入：", firsts: "前 {n} 张",
    small_side: "尺寸太小", aspect: "过于狭长", caption_short: "说明太短", caption_long: "说明太长", caption_language: "说明是其他语言", text_overlay: "图中有文字", nsfw: "不宜", clip_score: "说明与图不符", aesthetic: "美感评分低", too_blurry: "太模糊", near_duplicate: "近似重复", semantic_duplicate: "模型看来相同", in_other_dataset: "在其他数据集中",
    "t.min_side": "短边像素，至少", "t.max_aspect": "长边与短边之比，至多", "t.min_caption_length": "最长说明的字数，至少", "t.max_caption_length": "每条说明的字数，至多", "t.min_english": "英文说明的概率，至少", "t.min_chinese": "中文说明中汉字的比例，至少", "t.max_text_area": "图中文字所占比例，至多", "t.max_nsfw": "裸露评分，至多", "t.min_clip_score": "图文相符（CLIP 评分），至少", "t.min_aesthetic": "美感评分，至少", "t.max_min_timestep": "放大图片的最低时间步，至多", "t.near_duplicates.max_bits": "近似重复：哈希可相差的位数", "t.near_duplicates.max_colour": "近似重复：颜色可相差",
    structure: "结构部分", texture: "纹理部分", step: "第 {step} 步，共 {steps} 步", finished: "已完成", live: "训练中", stopped: "已停止", losscurve: "{run} 的损失", nogrid: "还没有样图。", gridof: "第 {step} 步的样图", shownstep: "样图", before: "之前", now: "最新", imagespersecond: "每秒 {n} 张", pairof: "{dataset} 上的 {recipe}", nocurve: "还没有记录损失。", ago: "{time}前", compare: "前后对比", olderones: "更早的训练", sheet: "{dataset} 最近一次再训练的前后对比",
  },
});

const ago = (ms) => {
  const seconds = Math.max(0, (Date.now() - ms) / 1000);
  const time = seconds < 90 ? word("seconds", { n: number(seconds) }) : seconds < 5400 ? word("minutes", { n: number(seconds / 60) }) : word("hours", { n: number(seconds / 3600) });
  return word("ago", { time });
};

function complain(message) {
  $("error").textContent = message;
  $("error").hidden = !message;
}

const state = (good, text) => element("span", { className: `state ${good}`, textContent: text });

// Shows the studio's door where something is served behind it.
function showDoor({ stack, served }) {
  $("studio-door").hidden = !served;
  if (served) $("studio-door").href = stack.studio;
}

document.addEventListener("DOMContentLoaded", () => {
  for (const link of document.querySelectorAll("nav a")) {
    const own = new URL(link.href).pathname;
    if (link.id !== "studio-door" && (own === location.pathname || (own !== "/" && location.pathname.startsWith(`${own}/`)))) link.setAttribute("aria-current", "page");
  }
});
