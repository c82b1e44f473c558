"""A plain PyTorch loop over a feed, that goes on where it was.

    python examples/plain_pytorch.py demo/dataset /tmp/plain.pt       # `make demo` makes the dataset
    python examples/plain_pytorch.py demo/dataset /tmp/plain.pt 100   # the same run, up to step 100

`for batch in feed` is one epoch, and each time the next one. `feed.state_dict()` beside the model's says where it is.
On several ranks give `Feed` each process's `rank` and the `world_size`, and wrap the model in DistributedDataParallel.
`global_batch_size` is that of all ranks together: the batches stay the same, and so does the position.
"""

import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from train.feed import Feed

dataset_url, checkpoint, num_steps = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 60

torch.manual_seed(0)
feed = Feed(dataset_url, split="train", global_batch_size=64, columns=["id", "image", "label"])
print(feed)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
step = 0
if checkpoint.exists():
    saved = torch.load(checkpoint, weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    feed.load_state_dict(saved["feed"])
    step = saved["step"]

while step < num_steps:
    keys: list[str] = []
    losses = []
    for batch in feed:
        logits = model(batch["image"].float() / 16)  # (B, 8, 8) uint8 of 0 to 16 -> (B, 10)
        # On several ranks the last batch of one may be padding, of weight 0.
        loss = (cross_entropy(logits, batch["label"], reduction="none") * batch["_weight"]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        keys += batch["id"]
        losses.append(loss.item())
        if step == num_steps:
            break
    print(f"step {step}: {len(keys)} rows, {len(set(keys))} keys, loss {sum(losses) / len(losses):.4f}")
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "feed": feed.state_dict(), "step": step}
    torch.save(state, checkpoint)
