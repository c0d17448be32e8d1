//! The resolver of a build without the feature `dns`: the system's own, which tells neither TTLs nor SRV.

use std::{io, time::Duration};

use super::{Answer, DEADLINE, DnsError};
use crate::{snapshot::EndpointParams, types::EndpointAddress};

/// How long an answer is taken to hold, since the system does not say.
const TTL: Duration = Duration::from_secs(30);

/// Asks the system's resolver.
#[derive(Clone, Debug)]
pub struct Resolver(());

impl Resolver {
    /// The system's resolver.
    ///
    /// # Errors
    ///
    /// Never; the signature is that of the other build.
    pub fn new() -> Result<Self, DnsError> {
        Ok(Self(()))
    }

    /// Addresses of `name` with `port`, or an error without a port, which would need SRV. Cancel-safe: yes.
    ///
    /// # Errors
    ///
    /// Why there is no endpoint. The system does not tell all reasons apart.
    pub async fn resolve(&self, name: &str, port: Option<u16>) -> Result<Answer, DnsError> {
        let port = port.ok_or(DnsError::SrvUnsupported)?;
        let lookup = tokio::time::timeout(DEADLINE, tokio::net::lookup_host((name, port)));
        let found = lookup.await.map_err(|_| DnsError::TimedOut)?.map_err(|error| failure(&error))?;
        let endpoints: Vec<EndpointParams> =
            found.map(|address| EndpointParams::new(EndpointAddress::Tcp(address))).collect();
        if endpoints.is_empty() {
            return Err(DnsError::NoRecords("A or AAAA"));
        }
        Ok(Answer::new(endpoints, TTL))
    }
}

fn failure(error: &io::Error) -> DnsError {
    match error.kind() {
        io::ErrorKind::TimedOut => DnsError::TimedOut,
        _ => DnsError::Server(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_of_the_hosts_file_is_resolved() {
        let answer = Resolver::new().unwrap().resolve("localhost", Some(80)).await.unwrap();
        assert!(answer.endpoints.iter().any(|endpoint| endpoint.address.to_string() == "127.0.0.1:80"));
        assert_eq!(answer.ttl, TTL);
    }

    #[tokio::test]
    async fn srv_is_an_error() {
        let outcome = Resolver::new().unwrap().resolve("_http._tcp.example", None).await;
        assert_eq!(outcome, Err(DnsError::SrvUnsupported));
    }
}
