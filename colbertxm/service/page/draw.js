// Elements from plain values. Texts are always text: nothing here reads HTML.

export function make(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

let rightToLeft = new Set();
let names = {};

export function learn(info) {
  rightToLeft = new Set(info.rtl);
  names = info.names;
}

// Of an element with text in a language: Han characters look different in Chinese, Japanese and Korean fonts.
export function written(lang) {
  return { lang, dir: rightToLeft.has(lang) ? "rtl" : "ltr" };
}

export function nameOf(lang) {
  return names[lang] || lang;
}

// "German – Deutsch", where the browser knows how a language calls itself.
export function bothNames(lang) {
  const name = nameOf(lang);
  try {
    const own = new Intl.DisplayNames([lang], { type: "language", fallback: "none" }).of(lang);
    return own && own.toLowerCase() !== name.toLowerCase() ? `${name} – ${own}` : name;
  } catch {
    return name;
  }
}
