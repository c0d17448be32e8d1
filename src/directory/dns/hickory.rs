//! The resolver of the feature `dns`: A, AAAA and SRV with their TTLs, by `hickory-resolver`.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_resolver::{
    ResolverBuilder, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
    lookup::Lookup,
    net::{DnsError as WireError, NetError, NoRecords, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{Name, RData, RecordType, rdata::SRV},
    },
};
use tokio::task::JoinSet;

use super::{Answer, DEADLINE, DnsError};
use crate::{policy::locality::MAX_PRIORITY, snapshot::EndpointParams, types::EndpointAddress};

/// Wait for one answer of one server. With the retries below, dead servers are known to be dead before
/// [`DEADLINE`] hides which of them it was.
const TRY_TIMEOUT: Duration = Duration::from_secs(2);
const RETRIES: usize = 1;

/// Most targets of an SRV answer that are looked up.
const MAX_TARGETS: usize = 64;

/// Longest time that an answer is believed, whatever its TTL says. Entries of the hosts file have a day.
const MAX_TTL: Duration = Duration::from_secs(3600);

/// Asks DNS servers. A clone shares its connections.
#[derive(Clone, Debug)]
pub struct Resolver(Arc<TokioResolver>);

/// Addresses of one name.
struct Addresses {
    addresses: Vec<IpAddr>,
    ttl: Duration,
}

impl Resolver {
    /// Servers and options of the system (`/etc/resolv.conf`, `/etc/hosts`), as they are now: later changes of
    /// these files are not noticed.
    ///
    /// # Errors
    ///
    /// [`DnsError::Configuration`] if they cannot be read.
    pub fn new() -> Result<Self, DnsError> {
        Self::build(TokioResolver::builder_tokio().map_err(|error| configuration(&error))?, TRY_TIMEOUT)
    }

    /// Asks one server, over UDP and where an answer is truncated over TCP, and nothing else.
    ///
    /// # Errors
    ///
    /// [`DnsError::Configuration`], which is not known to happen.
    pub fn with_nameserver(server: SocketAddr) -> Result<Self, DnsError> {
        Self::asking(server, TRY_TIMEOUT)
    }

    fn asking(server: SocketAddr, try_timeout: Duration) -> Result<Self, DnsError> {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = server.port();
            connection
        });
        let server = NameServerConfig::new(server.ip(), true, connections.into());
        let config = ResolverConfig::from_name_servers(vec![server]);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.options_mut().use_hosts_file = ResolveHosts::Never;
        Self::build(builder, try_timeout)
    }

    fn build(
        mut builder: ResolverBuilder<TokioRuntimeProvider>,
        try_timeout: Duration,
    ) -> Result<Self, DnsError> {
        let options = builder.options_mut();
        options.timeout = try_timeout;
        options.attempts = RETRIES;
        // We ask when a TTL has ended, so that a cache could only answer with what is about to end.
        options.cache_size = 0;
        Ok(Self(Arc::new(builder.build().map_err(|error| configuration(&error))?)))
    }

    /// Endpoints of the absolute name `name`: its addresses (A and AAAA) with `port`, or without a port the
    /// targets of its SRV records, with the ports, weights and priorities that these give. Search domains are not
    /// applied. Cancel-safe: yes.
    ///
    /// # Errors
    ///
    /// Why there is no endpoint; an answer without records is an error.
    pub async fn resolve(&self, name: &str, port: Option<u16>) -> Result<Answer, DnsError> {
        let mut name = Name::from_utf8(name).map_err(|error| DnsError::Name(error.to_string()))?;
        name.set_fqdn(true);
        let resolution = async {
            match port {
                Some(port) => self.addresses(name).await.map(|found| found.with_port(port)),
                None => self.services(name).await,
            }
        };
        tokio::time::timeout(DEADLINE, resolution).await.unwrap_or(Err(DnsError::TimedOut))
    }

    /// A and AAAA at once. One kind is enough: many servers fail on AAAA, and some hosts have only one.
    async fn addresses(&self, name: Name) -> Result<Addresses, DnsError> {
        let (v4, v6) = tokio::join!(
            self.0.lookup(name.clone(), RecordType::A),
            self.0.lookup(name.clone(), RecordType::AAAA)
        );
        let mut found = Addresses { addresses: Vec::new(), ttl: MAX_TTL };
        for lookup in [&v4, &v6].into_iter().flatten() {
            let before = found.addresses.len();
            found.addresses.extend(lookup.answers().iter().filter_map(|record| record.data.ip_addr()));
            if found.addresses.len() > before {
                found.ttl = found.ttl.min(ttl(lookup));
            }
        }
        if !found.addresses.is_empty() {
            return Ok(found);
        }
        // Of two failures, the one that says more than "no such records".
        let failures = [v4, v6].into_iter().filter_map(Result::err);
        let failures: Vec<DnsError> = failures.map(|error| failure(&error, "A or AAAA")).collect();
        let telling = failures.iter().find(|failure| !matches!(failure, DnsError::NoRecords(_)));
        Err(telling.or(failures.first()).cloned().unwrap_or(DnsError::NoRecords("A or AAAA")))
    }

    async fn services(&self, name: Name) -> Result<Answer, DnsError> {
        let lookup = self.0.lookup(name, RecordType::SRV).await.map_err(|error| failure(&error, "SRV"))?;
        let mut ttl = ttl(&lookup);
        let targets = targets(&lookup);
        if targets.is_empty() {
            return Err(DnsError::NoRecords("SRV"));
        }
        // Owned by this future: dropping it ends the look-ups.
        let mut lookups = JoinSet::new();
        for (target, priority) in targets {
            let resolver = self.clone();
            lookups.spawn(async move {
                let found = resolver.addresses(target.target.clone()).await;
                (target, priority, found)
            });
        }
        let mut endpoints = Vec::new();
        let mut first_failure = None;
        while let Some(joined) = lookups.join_next().await {
            // A look-up that panicked is one target without addresses.
            let Ok((target, priority, found)) = joined else { continue };
            match found {
                Ok(found) => {
                    ttl = ttl.min(found.ttl);
                    let weight = u32::from(target.weight).clamp(1, 1000);
                    let params = |ip| EndpointParams { priority, ..endpoint(ip, target.port, weight) };
                    endpoints.extend(found.addresses.into_iter().map(params));
                }
                Err(error) => first_failure = first_failure.or(Some(error)),
            }
        }
        if endpoints.is_empty() {
            return Err(first_failure.unwrap_or(DnsError::NoRecords("A or AAAA")));
        }
        Ok(Answer::new(endpoints, ttl))
    }
}

impl Addresses {
    fn with_port(self, port: u16) -> Answer {
        let endpoints = self.addresses.into_iter().map(|ip| endpoint(ip, port, 1));
        Answer::new(endpoints.collect(), self.ttl)
    }
}

fn endpoint(ip: IpAddr, port: u16, weight: u32) -> EndpointParams {
    EndpointParams { weight, ..EndpointParams::new(EndpointAddress::Tcp(SocketAddr::new(ip, port))) }
}

/// The records by priority (RFC 2782), and in an order of their own. Whatever numbers they use, the lowest becomes 0,
/// the next one 1, and so on. A target `.` says that there is no such service, and port 0 cannot be connected to.
fn targets(lookup: &Lookup) -> Vec<(SRV, u8)> {
    let records = lookup.answers().iter().filter_map(|record| match &record.data {
        RData::SRV(srv) if !srv.target.is_root() && srv.port != 0 => Some(srv),
        _ => None,
    });
    let mut records: Vec<&SRV> = records.collect();
    records.sort_by(|a, b| (a.priority, &a.target, a.port).cmp(&(b.priority, &b.target, b.port)));
    records.truncate(MAX_TARGETS);
    let levels = records.chunk_by(|one, other| one.priority == other.priority).zip(0..);
    levels
        .flat_map(|(level, rank): (_, u8)| {
            level.iter().map(move |srv| ((*srv).clone(), rank.min(MAX_PRIORITY)))
        })
        .collect()
}

/// The lowest TTL of an answer, aliases on the way included.
fn ttl(lookup: &Lookup) -> Duration {
    let lowest = lookup.answers().iter().map(|record| record.ttl).min();
    Duration::from_secs(u64::from(lowest.unwrap_or(0))).min(MAX_TTL)
}

fn configuration(error: &NetError) -> DnsError {
    DnsError::Configuration(error.to_string())
}

fn failure(error: &NetError, records: &'static str) -> DnsError {
    match error {
        NetError::Dns(WireError::NoRecordsFound(NoRecords { response_code, .. })) => match *response_code {
            ResponseCode::NXDomain => DnsError::NoSuchName,
            ResponseCode::NoError => DnsError::NoRecords(records),
            code => DnsError::Server(code.to_string()),
        },
        NetError::Dns(WireError::ResponseCode(code)) => DnsError::Server(code.to_string()),
        NetError::Timeout => DnsError::TimedOut,
        NetError::NoConnections | NetError::Io(_) | NetError::Busy => {
            DnsError::Unreachable(error.to_string())
        }
        _ => DnsError::Server(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
