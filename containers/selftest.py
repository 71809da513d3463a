"""Does the stack of an image import and compute? Runs when an image is built, and as `apptainer test IMAGE`.

Arguments: the packages that the image must have besides torch and transformers.
"""

import importlib
import math
import subprocess
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

for name in sys.argv[1:]:
    module = importlib.import_module(name)
    print(name, module.__version__)
    # vLLM imports without its kernels, to fail when it draws. torch brings its own libraries; the driver is the host's.
    told = subprocess.run(["ldd", *Path(module.__file__).parent.glob("*.so")], capture_output=True, text=True).stdout
    missing = {line.split()[0] for line in told.splitlines() if line.endswith("not found")}
    missing -= {file.name for file in Path(torch.__file__).parent.glob("lib/*")}
    if missing := {library for library in missing if not library.startswith(("libcu", "libnv"))}:
        sys.exit(f"selftest: {name} needs {', '.join(sorted(missing))}, which is not in this image")

torch.manual_seed(0)
config = LlamaConfig(vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
model = get_peft_model(LlamaForCausalLM(config), LoraConfig(target_modules=["q_proj", "v_proj"]))
tokens = torch.randint(256, (4, 16))
loss = model(input_ids=tokens, labels=tokens).loss
loss.backward()
# Small random weights know nothing yet: every token is about equally likely.
if abs(loss.item() - math.log(256)) > 0.2:
    sys.exit(f"selftest: the loss of an untrained model is {loss.item():.3f}, not about {math.log(256):.3f}")
print(f"torch {torch.__version__}, {torch.cuda.device_count()} GPUs: forward and backward pass done")
