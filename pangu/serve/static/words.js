"use strict";
// Every word of the page, in both languages.
const WORDS = {
  en: {
    language: "中文", prompt: "What to draw", negative: "What to steer away from", size: "Size", count: "Images", steps: "Steps",
    guidance: "Guidance", styles: "Style", plain: "plain", mix: "Mix and strength", seed: "Seed", lock: "Keep this seed", loras: "Adapters (LoRA)", coop: "Draw along with partners", strength: "Strength",
    control: "Control image", more: "More", scheduler: "Sampler", enhance: "Let a chat model word it more fully", windows: "Read long texts in windows", texturesteps: "Texture steps", textureguidance: "Texture guidance", asabove: "as above", key: "API key", kept: "The layout of a picture is kept: text, styles, guidance and steps change its texture only.",
    letgo: "Let go", proposed: "For example:", draw: "Draw", stop: "Stop", hint: "Ctrl+Enter draws, Escape stops.", gallery: "Gallery", empty: "Nothing drawn yet.",
    reuse: "Reuse", keep: "Keep layout", save: "Save", drawing: "Drawing …", step: "Partial image", done: "Done in {s} s", cached: "layout from the cache",
    release: "release {v} (structure {a}, texture {b})", loading: "The server is loading the model …", lost: "The server does not answer.", unread: "Too long to be read to its end, so this had no effect: {t}", unknown: "Words that this model does not know, so the picture has little to do with them: {w}", stopped: "Stopped.",
  },
  zh: {
    language: "English", prompt: "想画什么", negative: "不想要什么", size: "尺寸", count: "张数", steps: "步数",
    guidance: "引导强度", styles: "风格", plain: "默认", mix: "混合与强度", seed: "种子", lock: "固定种子", loras: "适配器（LoRA）", coop: "与伙伴模型合作", strength: "合作强度",
    control: "控制图", more: "更多", scheduler: "采样器", enhance: "让聊天模型扩写", windows: "分段读取长文字", texturesteps: "纹理步数", textureguidance: "纹理引导强度", asabove: "同上", key: "API 密钥", kept: "已保留一张图的布局：文字、风格、引导和步数只改变纹理。",
    letgo: "取消保留", proposed: "例如：", draw: "开始绘制", stop: "停止", hint: "Ctrl+Enter 绘制，Esc 停止。", gallery: "画廊", empty: "还没有图片。",
    reuse: "重用参数", keep: "保留布局", save: "保存", drawing: "绘制中……", step: "中间结果", done: "用时 {s} 秒", cached: "布局来自缓存",
    release: "版本 {v}（结构 {a}，纹理 {b}）", loading: "服务器正在加载模型……", lost: "服务器没有回应。", unread: "文字太长，以下部分未被读取，没有起作用：{t}", unknown: "模型不认识这些词，图片与它们关系不大：{w}", stopped: "已停止。",
  },
};
