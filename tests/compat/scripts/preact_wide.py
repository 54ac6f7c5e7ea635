"""Pre-activation and wide nets with squeeze-and-excitation, hooks, mixup, OneCycleLR and clipping, in double precision."""

import copy
from functools import partial

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim.lr_scheduler as lr_scheduler
from formula import fill, images

torch.set_default_dtype(torch.float64)
torch.backends.cudnn.benchmark = True
torch.backends.cudnn.deterministic = False


class SE(nn.Module):
    def __init__(self, channels, reduction=4):
        super().__init__()
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.excitation = nn.Sequential(
            nn.Linear(channels, channels // reduction), nn.ReLU(inplace=True), nn.Linear(channels // reduction, channels),
            nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x):
        b, c, _, _ = x.size()
        y = self.squeeze(x).view(b, c)
        y = self.excitation(y).view(b, c, 1, 1)
        return x * y.expand_as(x)


class PreAct(nn.Module):
    def __init__(self, in_planes, out_planes, stride, drop_rate=0.0, act=F.relu):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, out_planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_planes)
        self.conv2 = nn.Conv2d(out_planes, out_planes, 3, 1, 1, bias=False)
        self.se = SE(out_planes)
        self.act = act
        self.drop_rate = drop_rate
        self.equal = in_planes == out_planes
        self.shortcut = (not self.equal) and nn.Conv2d(in_planes, out_planes, 1, stride, 0, bias=False) or None

    def forward(self, x):
        o = self.act(self.bn1(x))
        if not self.equal:
            x = o
        out = self.act(self.bn2(self.conv1(o)))
        if self.drop_rate > 0:
            out = F.dropout(out, p=self.drop_rate, training=self.training)
        out = self.se(self.conv2(out))
        return torch.add(x if self.equal else self.shortcut(x), out)


class WideResNet(nn.Module):
    def __init__(self, depth, widen, num_classes=10, act=F.relu):
        super().__init__()
        assert (depth - 4) % 6 == 0, "depth should be 6n+4"
        n = (depth - 4) // 6
        widths = [4] + [int(v * widen) for v in (4, 8)]
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.groups = nn.ModuleList()
        for i in range(2):
            blocks = [
                PreAct(widths[i] if j == 0 else widths[i + 1], widths[i + 1], (i + 1) if j == 0 else 1, act=act)
                for j in range(n)
            ]
            self.groups.append(nn.Sequential(*blocks))
        self.bn = nn.BatchNorm2d(widths[2])
        self.fc = nn.Linear(widths[2], num_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                fan = m.kernel_size[0] * m.kernel_size[1] * m.out_channels
                m.weight.data.normal_(0, (2.0 / fan) ** 0.5)
            elif isinstance(m, nn.BatchNorm2d):
                m.weight.data.fill_(1)
                m.bias.data.zero_()
            elif isinstance(m, nn.Linear):
                nn.init.xavier_uniform_(m.weight, gain=np.sqrt(2))
                m.bias.data.zero_()

    def forward(self, x):
        out = self.conv1(x)
        for group in self.groups:
            out = group(out)
        out = F.relu(self.bn(out), inplace=True)
        return self.fc(out.mean([2, 3]))


def mixup(x, y, lam, index):
    return lam * x + (1 - lam) * x[index, :], y, y[index]


def main():
    x, y = images(10, 12)
    for name, act in {"relu": F.relu, "leaky": partial(F.leaky_relu, negative_slope=0.1), "silu": nn.SiLU()}.items():
        net = fill(WideResNet(10, 2, act=act))
        seen, grads = {}, []
        handle = net.groups[1].register_forward_hook(
            lambda module, args, output: seen.update(shape=tuple(output.shape))
        )
        net.fc.register_full_backward_hook(
            lambda module, grad_in, grad_out: grads.append(grad_out[0].abs().sum().item())
        )
        average = copy.deepcopy(net)
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.05)
        scheduler = lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=5)
        for step in range(4):
            mixed, y_a, y_b = mixup(x, y, 0.7, torch.arange(9, -1, -1))
            outputs = net(mixed)
            loss = 0.7 * F.cross_entropy(outputs, y_a) + (1 - 0.7) * F.cross_entropy(outputs, y_b)
            net.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(net.parameters(), max_norm=0.5)
            optimizer.step()
            scheduler.step()
            with torch.no_grad():
                for ours, theirs in zip(average.parameters(), net.parameters()):
                    ours.mul_(0.9).add_(theirs, alpha=0.1)
            print(f"{name} {step} loss {loss.item():.5f} norm {float(norm):.5f} lr {scheduler.get_last_lr()[0]:.6f}")
        handle.remove()
        probabilities = F.softmax(average.eval()(x), dim=-1)
        best, where = probabilities.max(1)
        print("  hook", seen["shape"], "grads", " ".join(f"{g:.5f}" for g in grads))
        print("  average", where.tolist(), best.detach().numpy().round(5).tolist())


if __name__ == "__main__":
    main()
