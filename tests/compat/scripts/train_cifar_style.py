"""A training script with everything around the model: arguments, loaders, a schedule, checkpoints, resuming."""

import argparse
import os

import torch
import torch.backends.cudnn as cudnn
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
import torch.utils.data
from formula import fill, images

parser = argparse.ArgumentParser(description="Training")
parser.add_argument("--lr", default=0.1, type=float, help="learning rate")
parser.add_argument("--resume", "-r", action="store_true", help="resume from checkpoint")
parser.add_argument("--epochs", default=2, type=int)
parser.add_argument("--workers", default=0, type=int)
parser.add_argument("--amp", action="store_true")
args = parser.parse_args()

torch.manual_seed(1)
if torch.cuda.is_available():
    torch.cuda.manual_seed_all(1)
torch.set_num_threads(1)
device = "cuda" if torch.cuda.is_available() else "cpu"
best_acc, start_epoch = 0, 0

x, y = images(60, 8, classes=4)
dataset = torch.utils.data.TensorDataset(x, y)
trainset = torch.utils.data.Subset(dataset, range(0, 44))
testset = torch.utils.data.Subset(dataset, range(44, 60))
trainloader = torch.utils.data.DataLoader(
    trainset, batch_size=16, shuffle=False, num_workers=args.workers, drop_last=True
)
testloader = torch.utils.data.DataLoader(testset, batch_size=10, shuffle=False, num_workers=args.workers)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, 4)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)) + x)
        x = F.adaptive_avg_pool2d(x, 1)
        return self.linear(x.view(x.size(0), -1))


net = fill(Net()).to(device)
if device == "cuda":
    net = torch.nn.DataParallel(net)
    cudnn.benchmark = True
criterion = nn.CrossEntropyLoss()
optimizer = optim.SGD(net.parameters(), lr=args.lr, momentum=0.9, weight_decay=5e-4)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
scaler = torch.cuda.amp.GradScaler(enabled=args.amp)

if args.resume:
    assert os.path.isdir("checkpoint"), "Error: no checkpoint directory found!"
    checkpoint = torch.load("./checkpoint/ckpt.pth", map_location=device)
    net.load_state_dict(checkpoint["net"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    scheduler.load_state_dict(checkpoint["scheduler"])
    best_acc, start_epoch = checkpoint["acc"], checkpoint["epoch"] + 1
    print("resumed at epoch", start_epoch, "with accuracy", best_acc)


def train(epoch):
    net.train()
    train_loss, correct, total = 0, 0, 0
    for batch_idx, (inputs, targets) in enumerate(trainloader):
        inputs, targets = inputs.to(device), targets.to(device)
        optimizer.zero_grad()
        with torch.cuda.amp.autocast(enabled=args.amp):
            outputs = net(inputs)
            loss = criterion(outputs, targets)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        train_loss += loss.item()
        _, predicted = outputs.max(1)
        total += targets.size(0)
        correct += predicted.eq(targets).sum().item()
    print("Epoch %d Loss: %.5f | Acc: %.3f%%" % (epoch, train_loss / (batch_idx + 1), 100.0 * correct / total))


def test(epoch):
    global best_acc
    net.eval()
    test_loss, correct, total = 0, 0, 0
    with torch.no_grad():
        for batch_idx, (inputs, targets) in enumerate(testloader):
            outputs = net(inputs.to(device))
            test_loss += criterion(outputs, targets.to(device)).item()
            correct += outputs.argmax(dim=1).eq(targets).sum().item()
            total += targets.size(0)
    acc = 100.0 * correct / total
    print("Test %d Loss: %.5f | Acc: %.3f%%" % (epoch, test_loss / (batch_idx + 1), acc))
    if not os.path.isdir("checkpoint"):
        os.mkdir("checkpoint")
    state = {
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "acc": acc,
        "epoch": epoch,
    }
    torch.save(state, "./checkpoint/ckpt.pth")
    best_acc = max(best_acc, acc)


for epoch in range(start_epoch, start_epoch + args.epochs):
    train(epoch)
    scheduler.step()
    test(epoch)
