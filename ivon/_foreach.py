# pyright: reportPrivateImportUsage=false
"""PyTorch's operations on lists of tensors, under short names; torch.optim is built on them, too.

They are few kernel launches on a GPU. A trailing underscore means in place, as always.
"""

import torch

add = torch._foreach_add
add_ = torch._foreach_add_
addcdiv_ = torch._foreach_addcdiv_
clamp_max_ = torch._foreach_clamp_max_
clamp_min_ = torch._foreach_clamp_min_
copy_ = torch._foreach_copy_
div = torch._foreach_div
div_ = torch._foreach_div_
lerp_ = torch._foreach_lerp_
mul = torch._foreach_mul
mul_ = torch._foreach_mul_
sqrt_ = torch._foreach_sqrt_
sub = torch._foreach_sub
sub_ = torch._foreach_sub_
