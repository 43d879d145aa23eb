"""Somebody else's training loop: PyTorch and torchvision, and of ssgear nothing but the loss.

python examples/use_the_loss_alone.py FOLDER      # a folder of class folders with images
"""

import sys

import torch
from torchvision import datasets, models
from torchvision.transforms import v2

from ssgear.losses import nt_xent

if len(sys.argv) != 2:
    sys.exit("usage: python examples/use_the_loss_alone.py FOLDER (of class folders with images)")
torch.manual_seed(0)
augment = v2.Compose(
    [
        v2.ToImage(), v2.RandomResizedCrop(32), v2.RandomHorizontalFlip(),
        v2.ColorJitter(0.4, 0.4, 0.4, 0.1), v2.ToDtype(torch.float32, scale=True),
    ]
)  # fmt: skip
images = datasets.ImageFolder(sys.argv[1], transform=lambda image: (augment(image), augment(image)))
loader = torch.utils.data.DataLoader(images, batch_size=64, shuffle=True, drop_last=True)
model = models.resnet18(num_classes=128)  # its last layer serves as the projector
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for epoch in range(2):
    for (view1, view2), _ in loader:
        loss = nt_xent(model(view1), model(view2), temperature=0.2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
