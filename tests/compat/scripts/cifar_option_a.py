"""He's net for CIFAR, with zero-padded shortcuts: a model and its loop in the form in which people publish them."""

import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.nn.init as init
import torch.optim as optim
from formula import fill, images
from torch.autograd import Variable

__all__ = ["SmallResNet", "resnet14"]


def weights_init(m):
    if isinstance(m, (nn.Linear, nn.Conv2d)):
        init.kaiming_normal_(m.weight)


class Lambda(nn.Module):
    def __init__(self, function):
        super(Lambda, self).__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Block(nn.Module):
    expansion = 1

    def __init__(self, in_planes, planes, stride=1, option="A"):
        super(Block, self).__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_planes != planes:
            if option == "A":
                self.shortcut = Lambda(
                    lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, planes // 4, planes // 4), "constant", 0)
                )
            else:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(in_planes, planes, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(planes)
                )

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class SmallResNet(nn.Module):
    def __init__(self, block, num_blocks, num_classes=10, option="A"):
        super(SmallResNet, self).__init__()
        self.in_planes = 8
        self.option = option
        self.conv1 = nn.Conv2d(3, 8, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = self._make_layer(block, 8, num_blocks[0], stride=1)
        self.layer2 = self._make_layer(block, 16, num_blocks[1], stride=2)
        self.layer3 = self._make_layer(block, 32, num_blocks[2], stride=2)
        self.linear = nn.Linear(32, num_classes)
        self.apply(weights_init)

    def _make_layer(self, block, planes, num_blocks, stride):
        layers = []
        for s in [stride] + [1] * (num_blocks - 1):
            layers.append(block(self.in_planes, planes, s, self.option))
            self.in_planes = planes * block.expansion
        return nn.Sequential(*layers)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.avg_pool2d(out, out.size()[3])
        out = out.view(out.size(0), -1)
        return self.linear(out)


def resnet14(option):
    return SmallResNet(Block, [2, 2, 2], option=option)


def accuracy(output, target, topk=(1,)):
    """The percentage of targets among the k best, for each k."""
    maxk = max(topk)
    _, pred = output.topk(maxk, 1, True, True)
    pred = pred.t()
    correct = pred.eq(target.view(1, -1).expand_as(pred))
    return [correct[:k].reshape(-1).float().sum(0).mul_(100.0 / target.size(0)) for k in topk]


def main():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    x, y = images(12, 16)
    for option in ("A", "B"):
        model = torch.nn.DataParallel(fill(resnet14(option))).to(device)
        criterion = nn.CrossEntropyLoss().to(device)
        optimizer = optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[2, 3])
        trained = [p for p in model.parameters() if p.requires_grad]
        print("option", option, "tensors", len(trained), "parameters", sum(p.numel() for p in trained))
        model.train()
        for step in range(4):
            input_var, target_var = Variable(x).to(device), Variable(y).to(device, non_blocking=True)
            output = model(input_var)
            loss = criterion(output, target_var)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            prec1, prec5 = accuracy(output.data, target_var, topk=(1, 5))
            lr = optimizer.param_groups[0]["lr"]
            print(
                "step {0} lr {lr:.4f} loss {1:.5f} prec {2:.3f} {3:.3f}".format(
                    step, loss.item(), prec1.item(), prec5, lr=lr
                )
            )
        model.eval()
        with torch.no_grad():
            output = model(x.to(device))
        print("eval", "%.5f" % criterion(output, y).item(), " ".join("%.5f" % v for v in output[0].cpu().numpy()))


if __name__ == "__main__":
    main()
