def read_state(file):
    import torch
    return torch.load(file, map_location="cpu", weights_only=True)
