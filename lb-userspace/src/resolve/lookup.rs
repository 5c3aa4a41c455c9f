//! One lookup: the hosts file, then name servers.

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use lb_core::engine::{Answer, LookupFailure};
use lb_core::model::Dns;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime};
use tokio::time::timeout;

/// The system's files that say how names are looked up.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];
/// How long name servers of the configuration have for one attempt.
const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;
/// How long a lookup may take, whatever the system's options say.
const LONGEST: Duration = Duration::from_secs(10);

/// What a lookup has found.
#[derive(Debug)]
pub struct Found {
    pub answer: Answer,
    /// Of the record that ends first; `None` when there is no record.
    pub ttl: Option<Duration>,
}

/// Who is asked.
#[derive(Debug)]
pub struct Client {
    /// Or why nobody can be asked.
    resolver: Result<TokioResolver, String>,
    /// Nothing when the configuration names its servers.
    hosts: Hosts,
    /// When the system's files were changed last, as far as they count.
    files: Option<[Option<SystemTime>; 2]>,
}

impl Client {
    pub fn new(dns: &Dns) -> Self {
        let system = dns.servers.is_empty();
        let files = system.then(changed);
        let provider = TokioRuntimeProvider::default();
        let builder = match system {
            // As the C library does without the file: it asks this host.
            true => TokioResolver::builder_tokio()
                .unwrap_or_else(|_| TokioResolver::builder_with_config(local(), provider)),
            false => {
                let servers = dns.servers.iter().map(|server| name_server(*server)).collect();
                let config = ResolverConfig::from_parts(None, Vec::new(), servers);
                let mut builder = TokioResolver::builder_with_config(config, provider);
                let options = builder.options_mut();
                (options.timeout, options.attempts) = (TIMEOUT, ATTEMPTS);
                builder
            }
        };
        let mut builder = builder;
        let options = builder.options_mut();
        // Whoever asks knows when to ask again, and both families of a name come from the same place.
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        Self {
            resolver: builder.build().map_err(|error| error.to_string()),
            hosts: match system {
                true => Hosts::from_system().unwrap_or_default(),
                false => Hosts::default(),
            },
            files,
        }
    }

    /// Whether the system's files say something else than when it was made.
    pub fn is_outdated(&self) -> bool {
        self.files.is_some_and(|files| files != changed())
    }

    /// Looks a name up. One with a dot is complete, whatever search list the system has.
    pub async fn look_up(&self, name: &str) -> Found {
        let dotted = name.contains('.') && !name.ends_with('.');
        let complete = if dotted {
            format!("{name}.")
        } else {
            name.to_owned()
        };
        let Ok(query) = Name::from_ascii(&complete) else {
            let failure = LookupFailure::Failed(format!("{name:?} is not a host name"));
            return Found::failed(&failure);
        };
        if let Some(found) = self.in_hosts(name) {
            return found;
        }
        let (a, aaaa) = tokio::join!(
            self.ask(query.clone(), RecordType::A),
            self.ask(query, RecordType::AAAA)
        );
        let ttls = [&a, &aaaa]
            .into_iter()
            .filter_map(|result| result.as_ref().ok()?.1);
        Found {
            ttl: ttls.min(),
            answer: Answer {
                v4: a.map(|(list, _)| v4(list)),
                v6: aaaa.map(|(list, _)| v6(list)),
            },
        }
    }

    fn in_hosts(&self, name: &str) -> Option<Found> {
        let mut host = Name::from_ascii(name).ok()?;
        host.set_fqdn(true);
        let find = |record_type| {
            let found = self
                .hosts
                .lookup_static_host(&Query::query(host.clone(), record_type));
            let found = found.iter().flat_map(|lookup| lookup.answers().to_vec());
            found
                .filter_map(|record| address_of(&record.data))
                .collect::<Vec<_>>()
        };
        let (v4_found, v6_found) = (find(RecordType::A), find(RecordType::AAAA));
        let found = !(v4_found.is_empty() && v6_found.is_empty());
        found.then(|| Found {
            answer: Answer {
                v4: Ok(v4(v4_found)),
                v6: Ok(v6(v6_found)),
            },
            // The file may change at any time.
            ttl: Some(Duration::ZERO),
        })
    }

    async fn ask(
        &self,
        name: Name,
        record_type: RecordType,
    ) -> Result<(Vec<IpAddr>, Option<Duration>), LookupFailure> {
        let failed = |words: String| LookupFailure::Failed(format!("{record_type}: {words}"));
        let resolver = self.resolver.as_ref().map_err(|why| failed(why.clone()))?;
        match timeout(LONGEST, resolver.lookup(name, record_type)).await {
            Err(_) => Err(failed("no name server answers".to_owned())),
            Ok(Ok(lookup)) => {
                let ttl = lookup.answers().iter().map(|record| record.ttl).min();
                let addresses = lookup.answers().iter();
                Ok((
                    addresses.filter_map(|record| address_of(&record.data)).collect(),
                    ttl.map(|seconds| Duration::from_secs(u64::from(seconds))),
                ))
            }
            Ok(Err(error)) if error.is_nx_domain() => Err(LookupFailure::UnknownHost),
            Ok(Err(error)) => match &error {
                NetError::Dns(DnsError::NoRecordsFound(none))
                    if none.response_code == ResponseCode::NoError =>
                {
                    Ok((Vec::new(), None))
                }
                NetError::Timeout => Err(failed("no name server answers".to_owned())),
                _ => Err(failed(error.to_string())),
            },
        }
    }
}

impl Found {
    fn failed(failure: &LookupFailure) -> Self {
        Self {
            answer: Answer {
                v4: Err(failure.clone()),
                v6: Err(failure.clone()),
            },
            ttl: None,
        }
    }
}

fn v4(list: Vec<IpAddr>) -> Vec<Ipv4Addr> {
    let v4 = |address| match address {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    };
    list.into_iter().filter_map(v4).collect()
}

fn v6(list: Vec<IpAddr>) -> Vec<Ipv6Addr> {
    let v6 = |address| match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => Some(v6),
    };
    list.into_iter().filter_map(v6).collect()
}

fn address_of(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    }
}

fn changed() -> [Option<SystemTime>; 2] {
    FILES.map(|file| fs::metadata(file).ok()?.modified().ok())
}

fn local() -> ResolverConfig {
    let server = name_server(SocketAddr::from((Ipv4Addr::LOCALHOST, 53)));
    ResolverConfig::from_parts(None, Vec::new(), vec![server])
}

fn name_server(server: SocketAddr) -> NameServerConfig {
    let mut config = NameServerConfig::udp_and_tcp(server.ip());
    let of_port = |connection: &mut ConnectionConfig| connection.port = server.port();
    config.connections.iter_mut().for_each(of_port);
    config
}
