"""Networks whose normalisation is not what it begins as."""

import torch


def settle(net):
    """Give every normalisation statistics and weights of its own, so that nothing is the identity."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_()
    return net.eval()
