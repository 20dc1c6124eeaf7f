"use strict";
// Words that several pages say, in both languages; each page adds its own.
const WORDS = {
  en: {
    language: "中文", close: "Close", copied: "Copied", notcopied: "Not copied", lost: "The server does not answer.", key: "Key", goon: "Go on", cancel: "Cancel",
    keytitle: "This asks for your key", keyabout: "`pangu status` prints it with the address of these pages.", home: "Home", datasets: "Datasets", training: "Training", studio: "Studio", pages: "Pages",
  },
  zh: {
    language: "English", close: "关闭", copied: "已复制", notcopied: "未能复制", lost: "服务器没有回应。", key: "密钥", goon: "继续", cancel: "取消",
    keytitle: "此操作需要密钥", keyabout: "`pangu status` 会把密钥和本页地址一起打印出来。", home: "首页", datasets: "数据集", training: "训练", studio: "画室", pages: "页面",
  },
};

function addWords(more) {
  for (const [name, words] of Object.entries(more)) Object.assign(WORDS[name], words);
}
