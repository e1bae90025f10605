"""A stand-in for the push service of a browser, and the browser: decrypts what it gets, without code of clinvk."""

import datetime
import ipaddress
import json
import ssl
from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path
from urllib.parse import urlsplit

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from receiver import Received, Receiver

_CURVE = ec.SECP256R1()
_POINT = (serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def from_base64url(text: str) -> bytes:
    return urlsafe_b64decode(text + "==")


class PushService(Receiver):
    """Answers as `Receiver` does, over TLS. Programs trust the service with the variables `env`."""

    def __init__(self, folder: Path, *statuses: int) -> None:
        super().__init__(*(statuses or (201,)))
        file = _write_certificate(folder)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        self.wrap(context)
        self.env = {"SSL_CERT_FILE": str(file)}
        self.host = urlsplit(self.url).netloc


class Browser:
    """A browser with a subscription to a push service."""

    def __init__(self, service: Receiver, path: str = "/send/1") -> None:
        self.endpoint = service.url + path
        self._key = ec.generate_private_key(_CURVE)
        self._public = self._key.public_key().public_bytes(*_POINT)
        self._auth = b"a-secret-of-16-b"

    def subscription(self, **fields: object) -> dict[str, object]:
        """Return the body that subscribes the browser."""
        return {"endpoint": self.endpoint, "p256dh": base64url(self._public), "auth": base64url(self._auth), **fields}

    def read(self, received: Received, server_key: str) -> dict[str, str]:
        """Verify that the server with a public key sent a message, and return the message."""
        scheme, _, rest = received.headers["authorization"].partition(" ")
        token, key = (part.partition("=")[2] for part in rest.split(", "))
        assert (scheme, key, received.headers["content-encoding"]) == ("vapid", server_key, "aes128gcm")
        public = ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, from_base64url(key))
        origin = self.endpoint.removesuffix(urlsplit(self.endpoint).path)
        claims = jwt.decode(token, public, ["ES256"], audience=origin)
        assert claims["sub"] == "mailto:clinvk@example.com"
        return json.loads(self._decrypt(received.body))

    def _decrypt(self, body: bytes) -> bytes:
        salt, sender = body[:16], body[21 : 21 + body[20]]
        shared = self._key.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, sender))
        secret = _derive(shared, self._auth, b"WebPush: info\0" + self._public + sender, 32)
        key = _derive(secret, salt, b"Content-Encoding: aes128gcm\0", 16)
        nonce = _derive(secret, salt, b"Content-Encoding: nonce\0", 12)
        text, _, padding = AESGCM(key).decrypt(nonce, body[21 + body[20] :], None).rpartition(b"\2")
        assert not padding.strip(b"\0")
        return text


def _derive(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(hashes.SHA256(), length, salt, info).derive(secret)


def _write_certificate(folder: Path) -> Path:
    """Write a certificate for 127.0.0.1 and its key; return the file."""
    key, now = ec.generate_private_key(_CURVE), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "push.test")])
    addresses = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    certificate = builder.add_extension(addresses, critical=False).sign(key, hashes.SHA256())
    file = folder / "push.pem"
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    file.write_bytes(certificate.public_bytes(pem) + private)
    return file
