"use strict";
// One question with factual, truth and all answers; below each what differs; the best and worst questions of a row.
(() => {
  const SHOWN = 6;

  const option = (value, text) => new Option(text ?? value, value);
  const element = (name, text = "", className = "") => {
    const made = document.createElement(name);
    made.textContent = text;
    made.className = className;
    return made;
  };

  class Gallery {
    constructor(root) {
      this.root = root;
      this.folder = `assets/${root.dataset.set}`;
      this.data = window.cfbench[root.dataset.set].gallery;
      this.sheets = new Map();
      for (const name of ["variable", "question", "reference", "metric", "row"]) this[name] = root.querySelector(`.${name}`);
      this.variable.append(...this.data.variables.map((v) => option(v.name, `do(${v.name})`)));
      const references = this.data.rows.filter((row) => row.kind === "factual" || row.kind === "truth");
      this.reference.append(...references.map((row) => option(row.name)));
      const rows = this.data.rows.filter((row) => row.kind === "method" || row.kind === "control");
      this.row.append(...rows.map((row) => option(row.name)));
      this.variable.addEventListener("change", () => this.changeVariable());
      this.question.addEventListener("change", () => this.go(0));
      for (const input of [this.reference, this.metric]) input.addEventListener("change", () => this.show());
      this.row.addEventListener("change", () => this.showExtremes());
      root.querySelector(".previous").addEventListener("click", () => this.go(-1));
      root.querySelector(".next").addEventListener("click", () => this.go(1));
      this.changeVariable();
    }

    get asked() {
      return this.data.variables.find((v) => v.name === this.variable.value);
    }

    get scored() {
      return this.data.metrics.filter((m) => m.do === this.asked.name)[Number(this.metric.value)];
    }

    get number() {
      return Number(this.question.value) - 1;
    }

    changeVariable() {
      const metrics = this.data.metrics.filter((m) => m.do === this.asked.name);
      const before = this.metric.selectedOptions[0]?.text;
      this.metric.replaceChildren(...metrics.map((m, i) => option(i, m.name + (m.weak ? " §" : ""))));
      const same = metrics.findIndex((m) => m.name === before);
      if (same >= 0) this.metric.value = same;
      this.question.max = this.asked.factual.length;
      this.go(0);
    }

    go(step) {
      const count = this.asked.factual.length;
      const wanted = Math.round(Number(this.question.value) || 1) - 1 + step;
      this.question.value = ((wanted % count) + count) % count + 1;
      this.show();
    }

    // The tile of a row's sheet that holds its image of a question.
    tile(row, number) {
      return row.kind === "factual" ? this.asked.factual[number] : this.asked.first + number;
    }

    sheet(row) {
      if (!this.sheets.has(row.name)) {
        const image = new Image();
        image.src = `${this.folder}/${row.sheet}`;
        this.sheets.set(row.name, image.decode().then(() => image));
      }
      return this.sheets.get(row.name);
    }

    async draw(canvas, layers) {
      const [, height, width] = this.data.shape;
      [canvas.width, canvas.height] = [width, height];
      const context = canvas.getContext("2d");
      for (const [row, number] of layers) {
        const image = await this.sheet(row);
        const at = this.tile(row, number);
        const [x, y] = [(at % row.across) * width, Math.floor(at / row.across) * height];
        context.drawImage(image, x, y, width, height, 0, 0, width, height);
        context.globalCompositeOperation = "difference";
      }
    }

    picture(layers, label) {
      const missing = layers.find(([row, number]) => row.missing.includes(this.tile(row, number)));
      if (missing) return element("span", missing[0].kind === "truth" ? "truth unknown" : "no image", "missing");
      const canvas = element("canvas");
      if (label) {
        canvas.setAttribute("role", "img");
        canvas.setAttribute("aria-label", label);
      } else {
        canvas.setAttribute("aria-hidden", "true");
      }
      this.draw(canvas, layers);
      return canvas;
    }

    score(row, number) {
      const value = this.scored?.scores[row.name]?.[number];
      return value ?? null;
    }

    show() {
      const [asked, number] = [this.asked, this.number];
      const outside = asked.supported[number] ? "" : " Outside the support of the training data.";
      this.root.querySelector(".asked").textContent =
        `${asked.asked[number]}. Before: ${this.data.before[asked.factual[number]]}. After: ${asked.after[number]}.${outside}`;
      const reference = this.data.rows.find((row) => row.name === this.reference.value);
      const figures = this.data.rows.map((row) => {
        const figure = element("figure", "", row.kind);
        figure.append(this.picture([[row, number]], `${row.name}, question ${number + 1}, ${asked.asked[number]}`));
        const same = row === reference;
        figure.append(
          same
            ? element("span", "reference", "missing")
            : this.picture([[reference, number], [row, number]], `difference of ${row.name} from the ${reference.name}`),
        );
        const caption = element("figcaption", row.name);
        const score = this.score(row, number);
        if (score !== null) caption.append(element("small", String(score)));
        figure.append(caption);
        return figure;
      });
      this.root.querySelector(".answers").replaceChildren(...figures);
      this.showExtremes();
    }

    showExtremes() {
      const row = this.data.rows.find((each) => each.name === this.row.value);
      const scores = (row && this.scored?.scores[row.name]) ?? [];
      const known = scores.map((score, i) => [score, i]).filter(([score]) => score !== null);
      const sign = this.scored?.higher ? -1 : 1;
      known.sort((a, b) => sign * (a[0] - b[0]) || a[1] - b[1]);
      this.root.querySelector(".none").hidden = known.length > 0;
      this.list("best", row, known.slice(0, SHOWN));
      this.list("worst", row, known.slice(-SHOWN).reverse());
    }

    list(name, row, found) {
      const items = found.map(([score, number]) => {
        const button = element("button");
        button.type = "button";
        button.append(this.picture([[row, number]], ""), element("span", `${number + 1}: ${score}`));
        button.setAttribute("aria-label", `question ${number + 1}, score ${score}`);
        button.addEventListener("click", () => {
          this.question.value = number + 1;
          this.go(0);
        });
        const item = element("li");
        item.append(button);
        return item;
      });
      this.root.querySelector(`ul.${name}`).replaceChildren(...items);
    }
  }

  for (const root of document.querySelectorAll(".gallery")) new Gallery(root);
})();
