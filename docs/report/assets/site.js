// What every page of a site needs: data that is taken in when it is asked for, the language, trials that open.
"use strict";
const brokerproof = (() => {
  const root = document.documentElement.dataset.root || "";
  const taken = new Map();
  const waiting = new Map();

  // A page from disk may not fetch, but it may load a script of its own folder: each data file hands its value over here.
  function take(name, value) {
    taken.set(name, value);
  }

  function load(name, path) {
    if (!waiting.has(name)) {
      waiting.set(name, new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = root + path;
        script.onload = () => (taken.has(name) ? resolve(taken.get(name)) : reject(new Error(`${path} holds something else`)));
        script.onerror = () => { waiting.delete(name); reject(new Error(`${path} cannot be read`)); };
        document.head.append(script);
      }));
    }
    return waiting.get(name);
  }

  // --- an element with its text, attributes and children; text is text, whatever it holds
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
    element.append(...children.filter((c) => c !== null && c !== undefined));
    return element;
  }

  // --- language: English stands in the pages; a table of words replaces it, word by word, and back
  const LABELS = ["aria-label", "placeholder", "title", "alt"];
  const english = new Map();
  let table = null;

  const chinese = () => document.documentElement.lang === "zh";

  function say(root_) {
    if (!table) return;
    const ours = (at) => !at.closest("[translate=no],[aria-hidden=true],code,pre,script,style,blockquote,cite,textarea,#language") &&
      // Evidence is what was recorded; only what heads it is ours.
      (!at.closest(".evidence-body,.trial-body") || at.closest("h2,h3,thead th,p.hint,.badge,.case-verdict,.legend,.ours"));
    const walker = document.createTreeWalker(root_, NodeFilter.SHOW_TEXT, (node) => (ours(node.parentElement) ? NodeFilter.FILTER_ACCEPT : NodeFilter.FILTER_REJECT));
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const words = english.has(node) ? english.get(node) : node.data;
      const key = words.replace(/\s+/g, " ").trim();
      if (!table.has(key)) continue;
      english.set(node, words);
      node.data = chinese() ? words.match(/^\s*/)[0] + table.get(key) + words.match(/\s*$/)[0] : words;
    }
    for (const element of root_.querySelectorAll(LABELS.map((l) => `[${l}]:not([translate=no])`).join())) {
      for (const label of LABELS) {
        const kept = `data-en-${label}`;
        const words = element.getAttribute(kept) ?? element.getAttribute(label);
        if (words === null || !table.has(words)) continue;
        element.setAttribute(kept, words);
        element.setAttribute(label, chinese() ? table.get(words) : words);
      }
    }
  }

  function remembered(value) {
    try {
      if (value !== undefined) localStorage.setItem("brokerproof-language", value);
      return localStorage.getItem("brokerproof-language");
    } catch {
      return null; // a browser that keeps nothing: the language is chosen page by page
    }
  }

  async function speak(language) {
    if (language === "zh" && !table) table = new Map(await load("zh", "assets/zh.js"));
    document.documentElement.lang = language;
    const button = document.getElementById("language");
    button.textContent = language === "zh" ? "English" : "中文";
    button.lang = language === "zh" ? "en" : "zh";
    say(document.body);
    document.dispatchEvent(new Event("language"));
  }

  // --- the part of the address behind "#": what is chosen, so that a view can be sent to somebody
  const chosen = () => new URLSearchParams(location.hash.slice(1));
  function choose(said) {
    if (location.hash.slice(1) !== said.toString()) history.replaceState(null, "", "#" + said);
  }

  // --- trials: read from disk when they are opened
  async function open(trial) {
    const name = trial.dataset.load;
    if (!name || !trial.open) return;
    delete trial.dataset.load;
    const place = trial.querySelector(".loading");
    try {
      const { html, timeline } = await load(name, `details/${name}.js`);
      // Parsed apart, so nothing in it could run; the policy of the page forbids it as well.
      const body = new DOMParser().parseFromString(html, "text/html").querySelector(".trial-body");
      place.replaceWith(document.adoptNode(body));
      for (const figure of trial.querySelectorAll(".scroller[aria-label^='timeline']")) figure.removeAttribute("tabindex");
      if (timeline && typeof drawTimeline === "function") drawTimeline(trial.querySelector(".zoom"), name, timeline);
      say(trial);
    } catch (error) {
      trial.dataset.load = name;
      place.textContent = error.message;
    }
  }

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("language");
    button.hidden = false;
    button.addEventListener("click", () => {
      const language = chinese() ? "en" : "zh";
      remembered(language);
      speak(language);
    });
    const wanted = new URLSearchParams(location.search).get("lang") || remembered();
    if (wanted === "zh") speak("zh");
    const trials = [...document.querySelectorAll("details.trial")];
    for (const trial of trials) trial.addEventListener("toggle", () => open(trial));
    if (trials.length) trials[0].open = true;
    document.addEventListener("keydown", (event) => {
      const search = document.querySelector("input[type=search]");
      if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || !search) return;
      if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
      event.preventDefault();
      search.focus();
    });
  });

  return { take, load, make, say, chosen, choose };
})();
