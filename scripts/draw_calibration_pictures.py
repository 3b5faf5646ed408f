"""Draw the calibration set's pictures that no camera took: a chart, a page of text, a form, and the demo's sign.

python scripts/draw_calibration_pictures.py          # writes them into calibration/

Photographs alone would leave out what an assistant is shown every day: sharp edges, letters and flat colour. The font
is the one that comes with Pillow, so the same Pillow draws the same bytes.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FOLDER = Path(__file__).parents[1] / "calibration" / "pictures"

PAGE = """Notice to residents

From Monday the water in the east wing will be turned off
between 9:00 and 15:30 while the old pipes are replaced.

1. Fill a kettle or a bucket before nine.
2. Keep taps closed until the work is finished.
3. The first water afterwards may be brown: let it run
   for two minutes.

Flats 14 to 31 are affected. Laundry in the basement of
the west wing stays open; bring your own tokens.

Questions: office, ground floor, 555-0142.
"""


def chart() -> Image.Image:
    """Bars with an axis, a title and a legend, 800 x 500."""
    image = Image.new("RGB", (800, 500), "white")
    draw = ImageDraw.Draw(image)
    draw.text((400, 30), "Umbrellas sold per month", "black", _font(28), anchor="mm")
    sales = {"Jan": (62, 48), "Feb": (55, 51), "Mar": (71, 66), "Apr": (84, 90), "May": (40, 45), "Jun": (22, 31)}
    for value in range(0, 101, 20):
        y = 430 - 3.5 * value
        draw.line([(80, y), (760, y)], "#cccccc")
        draw.text((70, y), str(value), "black", _font(18), anchor="rm")
    for index, (month, pair) in enumerate(sales.items()):
        x = 105 + 110 * index
        for offset, (value, colour) in enumerate(zip(pair, ("#1f5fa8", "#e08a1e"), strict=True)):
            draw.rectangle([x + 38 * offset, 430 - 3.5 * value, x + 38 * offset + 34, 430], colour)
        draw.text((x + 36, 450), month, "black", _font(18), anchor="mm")
    for x, colour, year in ((560, "#1f5fa8", "2030"), (660, "#e08a1e", "2031")):
        draw.rectangle([x, 62, x + 18, 80], colour)
        draw.text((x + 26, 71), year, "black", _font(18), anchor="lm")
    return image


def page() -> Image.Image:
    """A printed page, taller than wide, 600 x 840."""
    image = Image.new("RGB", (600, 840), "#fbf9f2")
    draw = ImageDraw.Draw(image)
    title, _, text = PAGE.partition("\n")
    draw.text((40, 50), title, "black", _font(34))
    draw.multiline_text((40, 110), text, "#222222", _font(20), spacing=14)
    return image


def form() -> Image.Image:
    """A small dialogue, dark, square, 448 x 448."""
    image = Image.new("RGB", (448, 448), "#20242c")
    draw = ImageDraw.Draw(image)
    draw.text((24, 24), "New booking", "white", _font(26))
    fields = {"Name": "R. Okafor", "Date": "14 March 2031", "Guests": "3", "Room": "12 B"}
    for index, (name, value) in enumerate(fields.items()):
        y = 80 + 70 * index
        draw.text((24, y), name, "#9aa4b5", _font(16))
        draw.rounded_rectangle([24, y + 22, 424, y + 56], 6, "#2d333f", "#4a5365")
        draw.text((36, y + 39), value, "white", _font(18), anchor="lm")
    draw.rounded_rectangle([24, 384, 214, 424], 8, "#2f7d4f")
    draw.text((119, 404), "Save", "white", _font(18), anchor="mm")
    draw.rounded_rectangle([234, 384, 424, 424], 8, "#5b2b33")
    draw.text((329, 404), "Cancel", "white", _font(18), anchor="mm")
    return image


def sign() -> Image.Image:
    """A house number on a wall, 336 x 224: six of the mini model's tiles, the number inside the upper middle one."""
    image = Image.new("RGB", (336, 224), "#35402f")
    draw = ImageDraw.Draw(image)
    draw.rectangle([120, 34, 216, 80], "#f4f1e4")
    draw.text((168, 57), "4257", "#14284f", _font(28), anchor="mm")
    return image


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def main() -> None:
    for draw in (chart, form, page):
        draw().save(FOLDER / f"{draw.__name__}.png", optimize=True)
    sign().save(FOLDER.parent / "sign.png", optimize=True)


if __name__ == "__main__":
    main()
