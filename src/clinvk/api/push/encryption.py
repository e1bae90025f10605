"""The cryptography of Web Push: messages encrypted as in RFC 8291, and the identity of the server (RFC 8292). Pure."""

import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

Key = ec.EllipticCurvePrivateKey

_CURVE = ec.SECP256R1()
_RECORD_BYTES = (4096).to_bytes(4, "big")
_TOKEN_S = 12 * 3600


def decoded(text: str) -> bytes:
    """Return the bytes of base64url, with or without padding."""
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def encoded(data: bytes) -> str:
    """Return base64url without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def new_secret() -> bytes:
    """Return the secret of a new private key, 32 bytes."""
    return ec.generate_private_key(_CURVE).private_numbers().private_value.to_bytes(32, "big")


def key_of(secret: bytes) -> Key:
    """Return the private key of a secret."""
    return ec.derive_private_key(int.from_bytes(secret, "big"), _CURVE)


def public_bytes(key: Key) -> bytes:
    """Return the public key as an uncompressed point of 65 bytes."""
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def encrypt(text: bytes, p256dh: bytes, auth: bytes, sender: Key, salt: bytes) -> bytes:
    """Return the body of a message. `sender` and the 16 bytes of `salt` must be new for each message.

    Raises:
        ValueError: `p256dh` is not a point of the curve.
    """
    shared = sender.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, p256dh))
    own = public_bytes(sender)
    secret = HKDF(SHA256(), 32, auth, b"WebPush: info\0" + p256dh + own).derive(shared)
    key = HKDF(SHA256(), 16, salt, b"Content-Encoding: aes128gcm\0").derive(secret)
    nonce = HKDF(SHA256(), 12, salt, b"Content-Encoding: nonce\0").derive(secret)
    return salt + _RECORD_BYTES + bytes([len(own)]) + own + AESGCM(key).encrypt(nonce, text + b"\x02", None)


def authorization(key: Key, endpoint: str, contact: str) -> str:
    """Return the header that identifies the server to a push service; `contact` is the address of its operator."""
    claims = {"aud": f"https://{urlsplit(endpoint).netloc}", "exp": int(time.time()) + _TOKEN_S, "sub": contact}
    token = ".".join(encoded(msgspec.json.encode(part)) for part in ({"typ": "JWT", "alg": "ES256"}, claims))
    numbers = decode_dss_signature(key.sign(token.encode(), ec.ECDSA(SHA256())))
    signature = encoded(b"".join(number.to_bytes(32, "big") for number in numbers))
    return f"vapid t={token}.{signature}, k={encoded(public_bytes(key))}"
