//! TLS around a check: a client configuration for each way of verifying, and the handshake.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::check::Tls;
use super::failure::{Failure, Reason};

/// The client's side of TLS 1.2 and 1.3. Reads the authorities' file, or the system's.
///
/// # Errors
/// [`Reason::Local`]: there are no authorities to trust.
pub fn config(tls: &Tls, alpn: &[&[u8]]) -> Result<ClientConfig, Failure> {
    let local = |text: &dyn core::fmt::Display| Failure::new(Reason::Local, text);
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| local(&error))?;
    let mut config = if tls.verify {
        let roots = match &tls.ca_file {
            Some(file) => from_file(file)?,
            None => of_the_system()?,
        };
        builder.with_root_certificates(roots).with_no_client_auth()
    } else {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
            .with_no_client_auth()
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    // Each check is to see whether a handshake succeeds, not whether an old one did.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// Largest file of authorities, bytes.
const LARGEST: u64 = 16 << 20;

fn from_file(file: &Path) -> Result<RootCertStore, Failure> {
    use io::Read;
    let name = file.display();
    let local =
        |why: &dyn core::fmt::Display| Failure::new(Reason::Local, format_args!("{name}: {why}"));
    let mut pem = Vec::new();
    std::fs::File::open(file)
        .and_then(|file| file.take(LARGEST).read_to_end(&mut pem))
        .map_err(|error| local(&error))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| local(&error))?;
        roots.add(certificate).map_err(|error| local(&error))?;
    }
    if roots.is_empty() {
        return Err(local(&"no certificate in it"));
    }
    Ok(roots)
}

fn of_the_system() -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        let text = "this machine has no certificate authorities; give a ca_file";
        return Err(Failure::new(Reason::Local, text));
    }
    Ok(roots)
}

/// Takes a connection into TLS.
pub(super) async fn handshake(
    stream: TcpStream,
    tls: &Tls,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, Failure> {
    let name = match &tls.name {
        Some(name) => ServerName::try_from(name.clone())
            .map_err(|error| Failure::new(Reason::Local, format_args!("{name}: {error}")))?,
        // An address is never sent as a name (RFC 6066 section 3).
        None => {
            let peer = stream.peer_addr();
            let peer = peer.map_err(|error| Failure::io("connect", &error))?;
            ServerName::from(peer.ip())
        }
    };
    let connected = TlsConnector::from(config).connect(name, stream).await;
    connected.map_err(|error| {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Failure::new(Reason::Tls, "the server hung up in the handshake");
        }
        broken("TLS", &error)
    })
}

/// From an error of a connection that may be TLS's.
pub(super) fn broken(doing: &str, error: &io::Error) -> Failure {
    match error
        .get_ref()
        .and_then(|e| e.downcast_ref::<rustls::Error>())
    {
        Some(of_tls) => Failure::new(Reason::Tls, format_args!("{doing}: {of_tls}")),
        None => Failure::io(doing, error),
    }
}

/// Takes every certificate, as the configuration asks for; signatures are checked all the same.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
