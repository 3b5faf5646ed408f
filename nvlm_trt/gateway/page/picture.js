// The one picture: what is sent of it, and how it is shown with the tiles it is cut into.

const at = (id) => document.getElementById(id);

export class Picture {
  #url = null;
  uri = null; // what is sent

  async open(file) {
    this.close();
    const uri = await readAsUri(file);
    // The type is of no weight: the server looks at the bytes.
    this.uri = `data:image/png;base64,${uri.slice(uri.indexOf(",") + 1)}`;
    this.#url = URL.createObjectURL(file);
    at("preview").alt = at("small").alt = file.name;
    at("file-name").textContent = file.name;
    at("drop").hidden = true;
    at("shown").hidden = at("remove").hidden = false;
    await this.#preview();
  }

  close() {
    if (this.#url) URL.revokeObjectURL(this.#url);
    this.#url = this.uri = null;
    at("preview").removeAttribute("src");
    at("small").removeAttribute("src");
    at("file-name").textContent = "";
    this.uncut();
    at("drop").hidden = false;
    at("shown").hidden = at("remove").hidden = true;
  }

  uncut() {
    at("tiles").replaceChildren();
    at("cut-into").textContent = "";
    at("thumbnail").hidden = true;
  }

  // `cut` is the server's word: its size, its grid, its tiles' tags.
  cut({ width, height, columns, rows, tile_tags: tags, tokens }) {
    setRatio(width, height);
    const grid = at("tiles");
    grid.style.setProperty("--columns", columns);
    grid.style.setProperty("--rows", rows);
    const parts = tags.slice(0, columns * rows).map((tag) => tag.replace(/[<>]/g, ""));
    grid.replaceChildren(...parts.map(tile));
    const one = tags.length === 1;
    at("thumbnail").hidden = one;
    const tiles = one ? "one tile" : `${columns} × ${rows} tiles and a thumbnail of the whole`;
    at("cut-into").textContent = `${width} × ${height} pixels, cut into ${tiles}: ${tokens} tokens`;
  }

  async #preview() {
    const image = at("preview");
    image.src = at("small").src = this.#url;
    try {
      await image.decode();
      setRatio(image.naturalWidth, image.naturalHeight);
    } catch {
      // A kind that this browser does not show; the server may read it all the same.
      image.removeAttribute("src");
      at("small").removeAttribute("src");
    }
  }
}

// The numbered part of a tag stays when there is no room for all of it.
function tile(tag) {
  const item = document.createElement("li");
  const label = document.createElement("span");
  const number = tag.match(/\d+$/)?.[0] ?? "";
  const rest = document.createElement("i");
  rest.textContent = number ? tag.slice(0, -number.length) : "";
  label.append(rest, number || "1");
  item.append(label);
  item.title = tag;
  return item;
}

function setRatio(width, height) {
  at("mosaic").style.setProperty("--ratio", width / height);
}

function readAsUri(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("The file cannot be read."));
    reader.readAsDataURL(file);
  });
}
