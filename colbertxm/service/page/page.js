// The search page: what is asked stands in the address, so that a search can be kept and sent.

import { ask, keep, Refused } from "./ask.js";
import { bothNames, learn, make, nameOf, written } from "./draw.js";
import { matchView } from "./matches.js";

const at = (id) => document.getElementById(id);
const [form, query, lang, passageLang, model] = ["search", "query", "lang", "passage-lang", "model"].map(at);
const K = 10;
let info = null;
let running = null;

async function start() {
  try {
    info = await ask("/info");
  } catch (error) {
    fail(error);
    return;
  }
  learn(info);
  at("key-form").hidden = true;
  const [main, compare] = info.models;
  at("about").textContent = `${main.passages.toLocaleString("en")} passages in ${count(main.passage_langs.length, "language")}`;
  query.maxLength = info.limits.query_chars;
  const asked = info.models.flatMap((one) => one.query_langs);
  fill(lang, [...(info.auto ? [["auto", "Detect"]] : []), ...languages(asked)]);
  const read = info.models.flatMap((one) => one.passage_langs);
  fill(passageLang, [["all", "Every language"], ["same", "The query’s language"], ...languages(read)]);
  if (compare) {
    fill(model, [["main", main.name], ["compare", compare.name], ["both", "Both, side by side"]]);
    at("model-choice").hidden = false;
  }
  fromAddress();
}

const count = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;
const languages = (codes) => [...new Set(codes)].map((code) => [code, bothNames(code)])
  .sort((one, other) => one[1].localeCompare(other[1], "en"));

function fill(select, options) {
  select.replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
}

function fromAddress() {
  const asked = new URLSearchParams(location.search);
  query.value = asked.get("q") || "";
  for (const [select, name] of [[lang, "lang"], [passageLang, "in"], [model, "model"]]) {
    const known = [...select.options].some((option) => option.value === asked.get(name));
    if (select.options.length) select.value = known ? asked.get(name) : select.options[0].value;
  }
  if (query.value.trim()) search();
  else clear();
}

function toAddress() {
  const asked = new URLSearchParams({ q: query.value, lang: lang.value, in: passageLang.value });
  if (!at("model-choice").hidden) asked.set("model", model.value);
  if (`?${asked}` !== location.search) history.pushState(null, "", `?${asked}`);
}

function clear() {
  at("error").textContent = at("status").textContent = "";
  at("results").replaceChildren();
}

async function search() {
  running?.abort();
  const mine = (running = new AbortController());
  const shown = model.value === "both" ? ["main", "compare"] : [model.value || "main"];
  const asked = { query: query.value, lang: lang.value, k: K, filters: { passage_lang: passageLang.value } };
  at("error").textContent = "";
  at("results").setAttribute("aria-busy", "true");
  try {
    const found = await Promise.all(shown.map((which) => ask("/search", { ...asked, model: which }, mine.signal)));
    document.body.classList.toggle("beside", shown.length > 1);
    document.title = `${query.value} – colbertxm`;
    at("results").replaceChildren(...found.map((one, n) => column(shown[n], one, found[1 - n], asked)));
    at("status").textContent = told(found);
  } catch (error) {
    if (error.name === "AbortError") return;
    at("results").replaceChildren();
    at("status").textContent = "";
    fail(error);
  } finally {
    if (running === mine) at("results").setAttribute("aria-busy", "false");
  }
}

function told(found) {
  const [first] = found;
  const sure = first.lang_confidence === null ? "" : ` (detected, ${Math.round(100 * first.lang_confidence)} % sure)`;
  const ms = found.map((one) => `${Math.round(one.took_ms)} ms`).join(" and ");
  const many = first.hits.length ? count(first.hits.length, "passage") : "Nothing found";
  return `${many} · query read as ${nameOf(first.lang)}${sure} · ${ms}`;
}

function column(which, found, other, asked) {
  const about = info.models.find((one) => one.which === which);
  const heading = other &&
    make("h2", {}, about.name, " ", make("small", {}, about.engine === "exact" ? "exhaustive" : about.engine));
  const hits = found.hits.map((hit) => result(hit, which, about, other, { ...asked, lang: found.lang }));
  return make("section", { class: "column", "aria-label": `Results of ${about.name}` },
    heading || null, make("ol", { class: "hits" }, ...hits));
}

function result(hit, which, about, other, asked) {
  const panel = make("section", { class: "matches", hidden: true, "aria-label": `Token matches of passage ${hit.rank}` });
  const toggle = make("button", { type: "button", class: "link", "aria-expanded": "false" }, "Token matches",
    make("span", { class: "visually-hidden" }, ` of passage ${hit.rank}`));
  toggle.addEventListener("click", () => open(toggle, panel, { query: asked.query, lang: asked.lang, id: hit.id, model: which }));
  const beside = other && elsewhere(hit, which, other);
  const guessed = hit.lang_confidence === null ? "" : `, detected ${Math.round(100 * hit.lang_confidence)} %`;
  return make("li", { class: "hit" },
    make("span", { class: "rank", "aria-hidden": "true" }, String(hit.rank)),
    make("div", {},
      make("p", { class: "passage", ...written(hit.lang) }, hit.text || "(no text was kept)"),
      make("div", { class: "facts" },
        make("span", {}, nameOf(hit.lang) + guessed),
        make("span", {}, `score ${hit.score.toFixed(3)}`),
        beside ? make("span", { class: "moved" }, beside) : null,
        about.token_matches ? toggle : null,
        make("bdi", { class: "id" }, hit.id)),
      panel));
}

// Where the other one has the same passage, unless it is the same place.
function elsewhere(hit, which, other) {
  const { name } = info.models.find((one) => one.which !== which);
  const there = other.hits.find((one) => one.id === hit.id);
  if (!there) return `not among the first ${other.hits.length} of ${name}`;
  return there.rank === hit.rank ? null : `rank ${there.rank} with ${name}`;
}

async function open(toggle, panel, asked) {
  const opening = panel.hidden;
  panel.hidden = !opening;
  toggle.setAttribute("aria-expanded", String(opening));
  if (!opening || panel.dataset.drawn) return;
  panel.replaceChildren(make("p", { class: "quiet", role: "status" }, "Reading both texts …"));
  try {
    panel.replaceChildren(...matchView(await ask("/matches", asked)));
    panel.dataset.drawn = "yes";
  } catch (error) {
    panel.replaceChildren(make("p", { class: "wrong", role: "alert" }, error.message));
  }
}

function fail(error) {
  if (!(error instanceof Refused)) throw error;
  at("error").textContent = error.message;
  if (error.status !== 401) return;
  at("key-form").hidden = false;
  at("key").focus();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!query.value.trim()) return;
  toAddress();
  search();
});
for (const select of [lang, passageLang, model]) {
  select.addEventListener("change", () => query.value.trim() && (toAddress(), search()));
}
at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keep(at("key").value);
  at("key").value = "";
  at("error").textContent = "";
  start();
});
window.addEventListener("popstate", fromAddress);
start();
