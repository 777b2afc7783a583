"""Segment one image from Python: `python predict_from_python.py RUN/checkpoints/best.ckpt photo.jpg labels.png`."""

import sys
from pathlib import Path

import torch
from PIL import Image

import segrefine
from segrefine.io.images import read_image


def main(checkpoint: str, photo: str, output: str) -> None:
    """Segment a photo, print the fraction of each class and save the colored labels."""
    net = segrefine.load_model(checkpoint)  # in eval mode, with its classes and palette
    image = read_image(Path(photo))  # (3, H, W) uint8, RGB
    with torch.inference_mode():
        logits = net(net.preprocess(image[None] / 255))  # (1, K, H, W)
    labels = logits[0].argmax(0)
    for index, name in enumerate(net.classes):
        print(f"{name}: {(labels == index).float().mean():.1%}")
    Image.fromarray(net.palette[labels.numpy()]).save(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
