"use strict";
// The studio's own words, in both languages.
addWords({
  en: {
    prompt: "What to draw", negative: "What to steer away from", size: "Size", count: "Images", steps: "Steps",
    guidance: "Guidance", styles: "Style", plain: "plain", mix: "Mix and strength", seed: "Seed", lock: "Keep this seed", loras: "Adapters (LoRA)", coop: "Draw along with partners", strength: "Strength",
    control: "Control image", more: "More", scheduler: "Sampler", enhance: "Let a chat model word it more fully", windows: "Read long texts in windows", texturesteps: "Texture steps", textureguidance: "Texture guidance", expertsteps: "Steps of {name}", expertguidance: "Guidance of {name}", asabove: "as above", key: "API key", kept: "The layout of a picture is kept: text, styles, guidance and steps change its texture only.",
    letgo: "Let go", proposed: "For example:", draw: "Draw", stop: "Stop", hint: "Ctrl+Enter draws, Escape stops.", gallery: "Gallery", empty: "Nothing drawn yet. Choose one of these, or say what to draw:", emptyplain: "Nothing drawn yet: say what to draw, and press Draw.",
    reuse: "Reuse", keep: "Keep layout", save: "Save", drawing: "Drawing …", step: "Partial image", done: "Done in {s} s", cached: "layout from the cache", waiting: "Waits: {text}", takeout: "Take out",
    release: "release {v} (structure {a}, texture {b})", loading: "The server is loading the model …", unread: "Too long to be read to its end, so this had no effect: {t}", unknown: "Words that this model does not know, so the picture has little to do with them: {w}", stopped: "Stopped.",
    byrelease: "drawn by release {v}", byfolder: "drawn by a pair without a release", edited: "from a picture, strength {s}", facts: "{by}, {size}, {steps} steps, guidance {guidance}, seed {seed}", style: "style {name}", copyfacts: "Copy", compare: "Compare", compareother: "Choose the other one", others: "More", remove: "Delete", removeall: "Delete all", reallyall: "Delete all pictures that this browser keeps?", enlarge: "Enlarge",
    notstored: "This browser keeps no pictures: they go with the page.", stays: "Pictures stay in this browser until you delete them.", progress: "Progress",
    source: "Start from a picture", choose: "Choose a picture", droppaste: "or drop or paste one anywhere on the page.", change: "How much may change", brush: "Brush", paint: "Paint what is to be drawn anew; nothing painted means all of it. Arrow keys move the brush, Space paints.", sourceview: "The picture to start from, to paint on", clearmask: "Clear the paint", takeaway: "Take it away", startfrom: "Start from it", become: "What becomes of it", refined: "Drawn on, its layout stays", variedby: "A variation by {p}", variedhint: "The partner says what is in the picture. It needs no text; a text says what happens in it.", share: "How much the partner says", varied: "varied by {p}, strength {s}", variation: "a variation", notapicture: "This is no picture that the browser can open.",
  },
  zh: {
    prompt: "想画什么", negative: "不想要什么", size: "尺寸", count: "张数", steps: "步数",
    guidance: "引导强度", styles: "风格", plain: "默认", mix: "混合与强度", seed: "种子", lock: "固定种子", loras: "适配器（LoRA）", coop: "与伙伴模型合作", strength: "合作强度",
    control: "控制图", more: "更多", scheduler: "采样器", enhance: "让聊天模型扩写", windows: "分段读取长文字", texturesteps: "纹理步数", textureguidance: "纹理引导强度", expertsteps: "{name} 的步数", expertguidance: "{name} 的引导强度", asabove: "同上", key: "API 密钥", kept: "已保留一张图的布局：文字、风格、引导和步数只改变纹理。",
    letgo: "取消保留", proposed: "例如：", draw: "开始绘制", stop: "停止", hint: "Ctrl+Enter 绘制，Esc 停止。", gallery: "画廊", empty: "还没有图片。选一个，或写下想画的内容：", emptyplain: "还没有图片：写下想画的内容，点击“开始绘制”。",
    reuse: "重用参数", keep: "保留布局", save: "保存", drawing: "绘制中……", step: "中间结果", done: "用时 {s} 秒", cached: "布局来自缓存", waiting: "等待中：{text}", takeout: "取出",
    release: "版本 {v}（结构 {a}，纹理 {b}）", loading: "服务器正在加载模型……", unread: "文字太长，以下部分未被读取，没有起作用：{t}", unknown: "模型不认识这些词，图片与它们关系不大：{w}", stopped: "已停止。",
    byrelease: "由版本 {v} 绘制", byfolder: "由未发布的模型绘制", edited: "改自一张图，强度 {s}", facts: "{by}，{size}，{steps} 步，引导 {guidance}，种子 {seed}", style: "风格 {name}", copyfacts: "复制", compare: "对比", compareother: "再选一张", others: "更多", remove: "删除", removeall: "全部删除", reallyall: "删除此浏览器保存的全部图片？", enlarge: "放大",
    notstored: "此浏览器不保存图片：关闭页面即消失。", stays: "图片保存在此浏览器中，直到您删除。", progress: "进度",
    source: "从图片开始", choose: "选择图片", droppaste: "或把图片拖放、粘贴到页面上。", change: "可以改变多少", brush: "画笔", paint: "涂抹要重画的部分；不涂则全部重画。方向键移动画笔，空格涂抹。", sourceview: "作为起点的图片，可在上面涂抹", clearmask: "清除涂抹", takeaway: "拿掉", startfrom: "从它开始", become: "怎么用它", refined: "保留布局，接着画", variedby: "由 {p} 画变体", variedhint: "画面内容由伙伴模型决定，可以不写文字；写了则说明画面里发生什么。", share: "伙伴的分量", varied: "由 {p} 变化，强度 {s}", variation: "变体", notapicture: "浏览器无法打开这张图片。",
  },
});
