//! Where an endpoint or an application listens: an IP address with a port, or a Unix socket.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

/// Address of one endpoint. Names are resolved before they become one of these.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndpointAddress {
    /// TCP at an IP address and port.
    Tcp(SocketAddr),
    /// A stream socket in the file system, written `unix:/path`.
    Unix(PathBuf),
}

/// Why a text is not an endpoint address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AddressError {
    /// `unix:` without a path, or with a relative one.
    #[error("a Unix socket needs an absolute path, as in `unix:/run/app.sock`")]
    UnixPath,
    /// Neither `ip:port` nor `unix:/path`.
    #[error("expected `ip:port` (`127.0.0.1:8080`, `[::1]:8080`) or `unix:/path`")]
    Socket,
    /// Port 0 cannot be connected to.
    #[error("port 0 cannot be connected to")]
    PortZero,
}

impl FromStr for EndpointAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            if !path.starts_with('/') || path.contains('\0') {
                return Err(AddressError::UnixPath);
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let socket: SocketAddr = text.parse().map_err(|_| AddressError::Socket)?;
        if socket.port() == 0 {
            return Err(AddressError::PortZero);
        }
        Ok(Self::Tcp(socket))
    }
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(socket) => socket.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_as_they_were_written() {
        for text in ["127.0.0.1:80", "[::1]:8443", "unix:/run/app.sock"] {
            assert_eq!(text.parse::<EndpointAddress>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_cannot_be_connected_to_is_refused() {
        assert_eq!("127.0.0.1:0".parse::<EndpointAddress>(), Err(AddressError::PortZero));
        assert_eq!("localhost:80".parse::<EndpointAddress>(), Err(AddressError::Socket));
        assert_eq!("unix:app.sock".parse::<EndpointAddress>(), Err(AddressError::UnixPath));
    }
}
