"use strict";
// The page: images come in by drop, paste, file, camera or example; answers and the viewer of their maps follow.

Hierax.Page = class {
  static #most = 4; // images beside each other

  constructor() {
    this.files = [];
    this.model = null; // what GET /v2 says of it
    this.store = null;
    this.turn = 0; // answers of an earlier turn come too late
  }

  async start() {
    const at = (selector) => document.querySelector(selector);
    at("#file").addEventListener("change", (event) => { this.take([...event.target.files]); event.target.value = ""; });
    at("#camera").addEventListener("click", () =>
      Hierax.camera(at("#shot"), (file) => this.take([file]), (reason) => this.tell(reason, true)));
    for (const button of document.querySelectorAll(".examples button")) {
      button.addEventListener("click", () => this.example(button.querySelector("img").src));
    }
    document.addEventListener("paste", (event) => this.take(this.#images(event.clipboardData)));
    document.addEventListener("dragover", (event) => { event.preventDefault(); at("#drop").classList.add("over"); });
    document.addEventListener("dragleave", () => at("#drop").classList.remove("over"));
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      at("#drop").classList.remove("over");
      this.take(this.#images(event.dataTransfer), "What was dropped holds no image.");
    });
    at("#key").addEventListener("submit", (event) => {
      event.preventDefault();
      Hierax.key = at("#key-text").value;
      this.introduce();
    });
    await this.introduce();
  }

  /** Say which model answers; a server that is still loading it is asked again. */
  async introduce() {
    try {
      const told = await Hierax.ask("v2");
      [this.model, this.store] = [told.model, told.store];
      document.querySelector("#key").hidden = true;
      this.tell("");
      document.querySelector("#model").textContent = this.model ? `with ${this.model.name}` : "";
      this.#licence(told.version);
      this.#programs("photo.jpg");
    } catch (error) {
      if (error.status === 503) setTimeout(() => this.introduce(), 1000);
      this.#failed(error);
    }
  }

  async example(address) {
    const blob = await (await fetch(address)).blob();
    this.take([new File([blob], new URL(address).pathname.split("/").pop(), {type: "image/jpeg"})]);
  }

  /** Show images: their answers, and the maps of all of them. */
  async take(files, none = "") {
    if (!files.length) return none && this.tell(none, true);
    const beside = document.querySelector("#beside").checked ? this.files : [];
    this.files = [...beside, ...files].slice(-Hierax.Page.#most);
    const turn = ++this.turn;
    this.tell(`Asking about ${this.files.map((file) => file.name).join(", ")} ...`);
    const cards = this.files.map((file) => this.#card(file));
    const answers = document.querySelector("#answers");
    for (const image of answers.querySelectorAll("img")) URL.revokeObjectURL(image.src);
    answers.replaceChildren(...cards.map((card) => card.element));
    answers.hidden = false;
    this.#programs(this.files[0].name);
    const said = await Promise.all(cards.map((card, index) => this.#answer(this.files[index], card)));
    if (turn !== this.turn) return;
    const good = this.files.filter((_, index) => said[index] !== null);
    const over = files.length - Hierax.Page.#most;
    const left = over > 0 ? ` At most ${Hierax.Page.#most} images are shown together: the first ${over} left out.` : "";
    const told = said.filter((text) => text !== null).join(" ") || "None of these images could be read.";
    this.tell(told + left, !good.length);
    document.querySelector("#seen").hidden = !good.length;
    if (good.length) await this.#view(good, turn);
  }

  /** One line of what is going on, which is read aloud as well. */
  tell(text, wrong = false) {
    const line = document.querySelector("#told");
    line.textContent = text;
    line.classList.toggle("wrong", wrong);
  }

  #images(transfer) {
    return [...(transfer ? transfer.files : [])].filter((file) => file.type.startsWith("image/") || !file.type);
  }

  #card(file) {
    const {make} = Hierax;
    const answer = make("div", {}, make("h3", {}, file.name));
    const near = make("div", {class: "near"});
    const image = make("img", {src: URL.createObjectURL(file), alt: ""});
    return {element: make("article", {class: "card answer", "aria-label": file.name}, image, answer, near), answer, near};
  }

  /** Classes and neighbours of one image; gives a sentence, or null where the image cannot be read. */
  async #answer(file, card) {
    const [classes, near] = await Promise.allSettled([
      this.model && this.model.classes ? Hierax.send("classify?top_k=5", file) : Promise.resolve(null),
      this.store ? Hierax.send("search?k=8", file) : Promise.resolve(null),
    ]);
    for (const {reason} of [classes, near].filter(({status}) => status === "rejected")) {
      this.#failed(reason);
      card.answer.append(Hierax.make("p", {}, reason.message));
      return null;
    }
    if (classes.value) card.answer.append(this.#bars(classes.value));
    if (near.value) await this.#neighbours(near.value, card.near);
    const [best] = classes.value || [];
    return best ? `${file.name}: ${best.label}, ${Hierax.percent(best.score)}.` : `${file.name} was read.`;
  }

  #bars(guesses) {
    const {make, percent} = Hierax;
    return make("ol", {class: "classes"}, ...guesses.map(({label, score}) => make("li", {},
      make("span", {}, label), make("span", {class: "share"}, percent(score)),
      make("meter", {min: 0, max: 1, value: score, "aria-label": `${label}: ${percent(score)}`}))));
  }

  async #neighbours(hits, place) {
    const {make} = Hierax;
    const list = make("ul");
    place.append(make("b", {}, "Nearest images of the store"), list);
    for (const {path, score, row} of hits) {
      const image = make("img", {alt: ""});
      Hierax.ask(`search/images/${row}`, {asBlob: true})
        .then((blob) => { image.src = URL.createObjectURL(blob); }, () => { image.alt = "no picture"; });
      list.append(make("li", {}, image, `${score.toFixed(3)} ${path.split(/[\\/]/).pop()}`));
    }
  }

  async #view(files, turn) {
    const place = document.querySelector("#viewer");
    try {
      const data = files.length > 1 ? await Hierax.sendAll("view", files) : await Hierax.send("view", files[0]);
      if (turn !== this.turn) return;
      data.images.forEach((image, index) => { image.name = files[index].name; });
      delete place.dataset.ready;
      this.viewer?.close();
      this.viewer = await Hierax.Viewer.open(place, data);
    } catch (error) {
      this.#failed(error);
    }
  }

  #failed(error) {
    if (error.status === 401) {
      document.querySelector("#key").hidden = false;
      document.querySelector("#key-text").focus();
    }
    this.tell(error.message, true);
  }

  #programs(name) {
    const {make} = Hierax;
    const origin = new URL(".", location.href).href;
    const lines = Hierax.programs(this.model ? this.model.name : "MODEL", origin, name, Boolean(Hierax.key));
    document.querySelector(".programs").replaceChildren(...lines.map(([title, text]) => {
      const copy = make("button", {type: "button", "aria-label": `copy: ${title}`, click: async () => {
        await navigator.clipboard.writeText(text);
        copy.textContent = "Copied";
      }}, "Copy");
      return make("div", {class: "program"}, make("b", {}, title), make("pre", {tabindex: 0}, make("code", {}, text)), copy);
    }));
  }

  #licence(version) {
    const {license, commercial, name} = this.model || {};
    const use = {true: " Commercial use is allowed.", false: " Commercial use is not allowed."}[commercial] || "";
    const text = this.model ? `Licence of the weights of ${name}: ${license || "unknown"}.${use} ` : "";
    document.querySelector("#licence").replaceChildren(text, Hierax.make("a", {href: "docs"}, "All addresses"), `. hierax ${version}`);
  }
};

new Hierax.Page().start();
