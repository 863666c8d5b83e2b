"""Landscapes for the seeded stories: a sky, a sun and ridges behind ridges, always the same for the same palette."""

import io
import math
import random

from django.core.files.base import ContentFile
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 1200, 675
RIDGES = 6


def blend(a, b, share):
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))


def ridge(dice: random.Random, level: int) -> list[tuple[int, float]]:
    """The outline of one row of hills; nearer rows are lower and rougher."""
    base = HEIGHT * (0.46 + 0.5 * level / RIDGES)
    waves = [
        (dice.uniform(26, 46) / n, dice.uniform(0.5, 1.1) * n / 130, dice.uniform(0, 2 * math.pi)) for n in (1, 2, 4, 9)
    ]
    points = range(0, WIDTH + 8, 8)
    return [(x, base - sum(height * math.sin(x * pace + phase) for height, pace, phase in waves)) for x in points]


def landscape(name: str, palette: list[str]) -> ContentFile:
    """A picture in three colours: the top of the sky, the horizon and the nearest hill."""
    dice = random.Random(name)
    top, horizon, near = (tuple(bytes.fromhex(colour)) for colour in palette)
    picture = Image.new("RGB", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(picture)
    for y in range(HEIGHT):
        draw.line([(0, y), (WIDTH, y)], fill=blend(top, horizon, min(1, y / (HEIGHT * 0.62))))
    x, y, radius = dice.uniform(0.2, 0.8) * WIDTH, dice.uniform(0.2, 0.42) * HEIGHT, dice.uniform(38, 70)
    glow = Image.new("L", (WIDTH, HEIGHT))
    ImageDraw.Draw(glow).ellipse([x - 3 * radius, y - 3 * radius, x + 3 * radius, y + 3 * radius], fill=90)
    picture.paste((255, 250, 235), mask=glow.filter(ImageFilter.GaussianBlur(radius)))
    sun = Image.new("L", (WIDTH, HEIGHT))
    ImageDraw.Draw(sun).ellipse([x - radius, y - radius, x + radius, y + radius], fill=235)
    picture.paste((255, 250, 235), mask=sun.filter(ImageFilter.GaussianBlur(1.5)))
    for level in range(RIDGES):
        colour = blend(horizon, near, (level + 1) / RIDGES)
        draw.polygon([(0, HEIGHT), *ridge(dice, level), (WIDTH, HEIGHT)], fill=colour)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=84, optimize=True, progressive=True)
    return ContentFile(buffer.getvalue(), f"{name}.jpg")
