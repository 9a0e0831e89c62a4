"""Initialisation: pure in-place schemes, the fans of operators, keyed generators, and rules that choose among them.

Every scheme is a function on a tensor that needs no config:

    >>> import torch
    >>> from modelfactory.init import delta_orthogonal_, operator_fans, xavier_uniform_
    >>> delta_orthogonal_(torch.empty(8, 4, 3, 3)).shape
    torch.Size([8, 4, 3, 3])
    >>> depthwise = torch.nn.Conv2d(64, 64, 3, groups=64)
    >>> _ = xavier_uniform_(depthwise.weight, fans=operator_fans(depthwise, "weight")[0].fans)
"""

from modelfactory.init.fans import Block, Fans, operator_fans, torch_fans
from modelfactory.init.schemes.critical import critical_, critical_bias_
from modelfactory.init.schemes.depth_scaled import completep_, deepnorm_, fixup_, gpt2_, small_init_, t_fixup_, t_fixup_embedding_
from modelfactory.init.schemes.elementwise import constant_, normal_, ones_, trunc_normal_, uniform_, zeros_
from modelfactory.init.schemes.embedding_head import centred_normal_, mup_, prior_bias_, siren_, tied_embedding_
from modelfactory.init.schemes.gates import chrono_, forget_bias_
from modelfactory.init.schemes.language_models import depth_trunc_normal_, fan_in_trunc_normal_, spectral_
from modelfactory.init.schemes.patterns import bilinear_, zero_hadamard_
from modelfactory.init.schemes.structured import delta_orthogonal_, dirac_, eye_, icnr_, orthogonal_, sparse_
from modelfactory.init.schemes.variance import (
    fan_in_uniform_,
    kaiming_normal_,
    kaiming_uniform_,
    lecun_normal_,
    lecun_uniform_,
    rule_of_thumb_,
    variance_scaling_,
    xavier_normal_,
    xavier_uniform_,
)

__all__ = [
    "Block",
    "Fans",
    "bilinear_",
    "centred_normal_",
    "chrono_",
    "completep_",
    "constant_",
    "critical_",
    "critical_bias_",
    "deepnorm_",
    "delta_orthogonal_",
    "depth_trunc_normal_",
    "dirac_",
    "eye_",
    "fan_in_trunc_normal_",
    "fan_in_uniform_",
    "fixup_",
    "forget_bias_",
    "gpt2_",
    "icnr_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "lecun_normal_",
    "lecun_uniform_",
    "mup_",
    "normal_",
    "ones_",
    "operator_fans",
    "orthogonal_",
    "prior_bias_",
    "rule_of_thumb_",
    "siren_",
    "small_init_",
    "sparse_",
    "spectral_",
    "t_fixup_",
    "t_fixup_embedding_",
    "tied_embedding_",
    "torch_fans",
    "trunc_normal_",
    "uniform_",
    "variance_scaling_",
    "xavier_normal_",
    "xavier_uniform_",
    "zero_hadamard_",
    "zeros_",
]
