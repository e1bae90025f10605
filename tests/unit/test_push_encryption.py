"""The encryption of Web Push."""

import pytest

from clinvk.api.push.encryption import decoded, encoded, encrypt, key_of, new_secret, public_bytes

# The example in section 5 of RFC 8291.
TEXT = b"When I grow up, I want to be a watermelon"
P256DH = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
AUTH = "BTBZMqHH6r4Tts7J_aSIgg"
SENDER = "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"
SENDER_PUBLIC = "BP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A8"
SALT = "DGv6ra1nlYgDCS1FRnbzlw"
BODY = (
    "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_"
    "yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
)


def test_message_is_encrypted_as_in_the_example_of_the_standard() -> None:
    sender = key_of(decoded(SENDER))
    assert encoded(public_bytes(sender)) == SENDER_PUBLIC
    assert encoded(encrypt(TEXT, decoded(P256DH), decoded(AUTH), sender, decoded(SALT))) == BODY


def test_key_that_is_not_on_the_curve_is_refused() -> None:
    with pytest.raises(ValueError, match="EC key"):
        encrypt(TEXT, b"\4" + b"x" * 64, decoded(AUTH), key_of(new_secret()), decoded(SALT))
