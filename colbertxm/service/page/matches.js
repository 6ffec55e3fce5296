// Which query token met which passage token: tokens to press, the passage in shades, and the same as a table.

import { make, written, nameOf } from "./draw.js";

export function matchView(found) {
  const asked = found.query_tokens.filter((token) => token.kept);
  const passage = found.passage_tokens.filter((token) => token.kept);
  const cosines = found.cosines.map((line, n) => line[found.best[n]]);
  const read = make("p", { class: "read", ...written(found.passage.lang) });
  const note = make("p", { class: "quiet", role: "status" });
  const buttons = asked.map((token, n) => {
    const met = passage[found.best[n]];
    return make(
      "button",
      { type: "button", class: "token" + (token.role === "text" ? "" : " special"), "aria-pressed": "false",
        "aria-label": `${token.label} met ${met.label}, cosine ${cosines[n].toFixed(2)}`,
        onclick: () => show(chosen === n ? null : n) },
      make("b", {}, label(token, found.lang)),
      make("span", {}, label(met, found.passage.lang)),
      make("span", { dir: "ltr" }, cosines[n].toFixed(2)),
    );
  });
  let chosen = null;

  function show(n) {
    chosen = n;
    buttons.forEach((button, place) => button.setAttribute("aria-pressed", String(place === n)));
    const { shares, said } = n === null ? given(found, cosines, passage) : alone(found, n, asked);
    note.textContent = said;
    drawPassage(read, found, shares, n === null ? new Set() : new Set([found.best[n]]));
  }

  const score = `Read as ${nameOf(found.lang)} and ${nameOf(found.passage.lang)}. The score ${found.score.toFixed(3)} is the sum of ` +
    "each query token’s best cosine.";
  const view = [
    make("h3", {}, "What each query token met"),
    make("p", { class: "quiet" }, score),
    make("div", { class: "tokens", role: "group", "aria-label": "Query tokens", ...written(found.lang) }, ...buttons),
    make("h3", {}, "In the passage"),
    note,
    make("p", { class: "quiet scale", "aria-hidden": "true" }, "less", make("i"), "more"),
    read,
    make("details", {}, make("summary", {}, "The same as a table"), asTable(found, asked, passage, cosines)),
  ];
  show(null);
  return view;
}

// Each passage token's part of the score, beside the largest.
function given(found, cosines, passage) {
  const parts = passage.map(() => 0);
  found.best.forEach((place, n) => (parts[place] += cosines[n]));
  const most = Math.max(...parts, 1e-6);
  const said = "Shaded by what each token gives to the score. Press a query token to see it alone.";
  return { shares: parts.map((part) => Math.max(0, part) / most), said };
}

// One query token's cosines, from the lowest to the highest of all: many encoders keep them in a narrow band.
function alone(found, n, asked) {
  const all = found.cosines.flat();
  const low = Math.min(...all);
  const spread = Math.max(Math.max(...all) - low, 1e-6);
  const said = `Shaded by the cosine with “${asked[n].label}”; underlined: the token that it met. Press it again to see all.`;
  return { shares: found.cosines[n].map((value) => (value - low) / spread), said };
}

function drawPassage(read, found, shares, best) {
  read.replaceChildren();
  let place = -1;
  for (const token of found.passage_tokens) {
    if (token.kept) place += 1;
    const share = token.kept ? shares[place] : 0;
    if (token.role === "text" && token.text) {
      // The space stays outside, or a gap would be shaded; no padding, so that Arabic letters stay joined.
      const bare = token.text.trimStart();
      read.append(token.text.slice(0, token.text.length - bare.length));
      const kind = (token.kept ? "shaded" : "silent") + (token.kept && best.has(place) ? " best" : "");
      read.append(shaded(make("span", { class: kind }, bare), share));
    } else if (token.kept && share > 0) {
      const kind = "sign shaded" + (best.has(place) ? " best" : "");
      read.append(" ", shaded(make("span", { class: kind, dir: "ltr" }, token.label), share), " ");
    }
  }
  if (found.rest.trim()) read.append(make("span", { class: "cut", title: "Beyond what the model reads" }, found.rest));
}

function shaded(element, share) {
  element.style.setProperty("--share", share.toFixed(3));
  return element;
}

function asTable(found, asked, passage, cosines) {
  const lines = asked.map((token, n) =>
    make("tr", {},
      make("th", { scope: "row" }, label(token, found.lang)),
      make("td", {}, label(passage[found.best[n]], found.passage.lang)),
      make("td", { class: "number" }, cosines[n].toFixed(3)),
      make("td", { class: "number" }, found.score ? `${Math.round((100 * cosines[n]) / found.score)} %` : ""),
    ));
  const head = make("tr", {},
    make("th", { scope: "col" }, "Query token"), make("th", { scope: "col" }, "Met"),
    make("th", { scope: "col", class: "number" }, "Cosine"), make("th", { scope: "col", class: "number" }, "Share"));
  return make("div", { class: "wide" },
    make("table", {}, make("caption", {}, "Each query token, the passage token with the highest cosine, and its share of the score"),
      make("thead", {}, head), make("tbody", {}, ...lines)));
}

// Tokens that are no text keep their direction, or </s> would be turned round beside Arabic.
function label(token, lang) {
  return make("bdi", token.role === "text" ? written(lang) : { dir: "ltr" }, token.label);
}
