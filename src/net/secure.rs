//! TLS over a connection that was made. Whom to trust is in the configuration, which `identity` makes.

use std::{io, sync::Arc};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, pki_types::ServerName},
};

/// Speaks TLS over `stream` with a server that proves to be `server_name`, a name or an address. Has no limit of its
/// own. Cancel-safe: dropping the future closes the connection.
///
/// # Errors
/// If `server_name` can be neither, or if the server does not prove to be it, or does not speak TLS.
pub async fn secure<S>(stream: S, server_name: &str, config: Arc<ClientConfig>) -> io::Result<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name = ServerName::try_from(server_name)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?
        .to_owned();
    TlsConnector::from(config).connect(name, stream).await
}
