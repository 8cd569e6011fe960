"""Credentials for tests: made up, of the shape that their issuers document, and put together when the test runs."""

from __future__ import annotations

import base64

from hypothesis import strategies as st

SECRET = "x7Kq9vLmT2pZ4w"  # stands for any


def drawn(length: int, letters: str = "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7") -> str:
    """So many characters that look random."""
    return "".join(letters[(7 * i + i * i // 3) % len(letters)] for i in range(length))


BASIC = base64.b64encode(b"me:hunter2").decode()
JWT = ".".join("eyJ" + drawn(20) if i < 2 else drawn(43) for i in range(3))
PEM = "-----BEGIN {kind}PRIVATE KEY-----\n{body}\n-----END {kind}PRIVATE KEY-----"
FORMATS = {
    "AWS access key": "AKIA" + drawn(16, "A2B3C4D5"),
    "AWS temporary key": "ASIA" + drawn(16, "A2B3C4D5"),
    "GitHub personal": "ghp_" + drawn(36),
    "GitHub OAuth": "gho_" + drawn(36),
    "GitHub user to server": "ghu_" + drawn(36),
    "GitHub server": "ghs_" + drawn(36),
    "GitHub refresh": "ghr_" + drawn(76),
    "GitHub fine-grained": "github_pat_" + drawn(22) + "_" + drawn(59),
    "GitLab personal": "glpat-" + drawn(20),
    "GitLab personal, routable": "glpat-" + drawn(27) + ".01." + drawn(9),
    "GitLab trigger": "glptt-" + drawn(40),
    "GitLab deploy": "gldt-" + drawn(20),
    "GitLab runner": "glrt-" + drawn(20),
    "GitLab job": "glcbt-64_" + drawn(20),
    "npm": "npm_" + drawn(36),
    "PyPI": "pypi-AgE" + drawn(132),
    "TestPyPI": "pypi-AgE" + drawn(140),
    "Hugging Face": "hf_" + drawn(34, "aBcDeFgHiJkLm"),
    "Hugging Face organisation": "api_org_" + drawn(34, "aBcDeFgHiJkLm"),
    "W&B": "wandb_v1_" + drawn(77),
    "W&B, own server": "local-" + drawn(40, "0123456789abcdef"),
    "Azure storage": drawn(86) + "==",
    "Azure Entra secret": drawn(3) + "8Q~" + drawn(34),
    "Azure DevOps": drawn(76) + "AZDO" + drawn(4),
    "Google API": "AIza" + drawn(35),
    "Google OAuth": "ya29." + drawn(60),
    "Google client": "GOCSPX-" + drawn(28),
    "Slack": "xoxb-" + drawn(12, "0123456789") + "-" + drawn(24),
    "Databricks": "dapi" + drawn(32, "0123456789abcdef"),
    "Docker Hub": "dckr_pat_" + drawn(27),
    "Anthropic": "sk-ant-api03-" + drawn(90),
    "OpenAI": "sk-proj-" + drawn(60),
    "Stripe": "sk_live_" + drawn(24),
    "JSON web token": JWT,
}


TEXTS = st.lists(
    st.sampled_from([SECRET, "password", "token", ": ", "=", '"', "'", "\\", "\n", "://", "@", "/", "a", " ", "&", "?",
                     "sig=", "REDACTED", "Basic ", BASIC, "Bearer ", ",", "{", "}", "- ", "# ", FORMATS["npm"], "é",
                     "authorization: ", "passphrase", "\u2028", "null", "\t", "key", "API ", "--", "1234", "`", "is "]),
    max_size=12,
).map("".join)  # fmt: skip
