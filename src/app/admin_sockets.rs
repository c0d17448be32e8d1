//! Where the admin API and the metrics are served: bound before anything serves, twice in use while a sidecar waits for its
//! first certificate.

use std::sync::Arc;

use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
};

use super::run::RunError;
use crate::{
    admin::{self, Access, Listener, Scope, Serving},
    config::Bundle,
    net::{self, UnixPlace},
    rt::Tasks,
    telemetry::metrics::{AdminMetrics, Registry},
    types::EndpointAddress,
};

/// The socket of the admin API, of either kind.
enum AdminSocket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, Arc<UnixPlace>),
}

/// Sockets of the admin API and of the metrics, bound before anything serves.
pub(super) struct AdminSockets {
    admin: AdminSocket,
    metrics: Option<std::net::TcpListener>,
}

impl AdminSockets {
    pub(super) fn bind(bundle: &Bundle) -> Result<Self, RunError> {
        let one = |address| {
            net::bind(address, 1)
                .map(|mut sockets| sockets.remove(0))
                .map_err(RunError::start("cannot open the admin listener"))
        };
        let admin = match &bundle.admin.address {
            EndpointAddress::Tcp(address) => AdminSocket::Tcp(one(*address)?),
            EndpointAddress::Unix(path) => {
                let bound =
                    net::bind_unix(path).map_err(RunError::start("cannot open the admin listener"))?;
                AdminSocket::Unix(bound.0, Arc::new(bound.1))
            }
        };
        let metrics = bundle.admin.metrics_address.map(one).transpose()?;
        Ok(Self { admin, metrics })
    }

    /// The same sockets once more.
    pub(super) fn twin(&self) -> Result<Self, RunError> {
        let failed = RunError::start("cannot open the admin listener");
        let admin = match &self.admin {
            AdminSocket::Tcp(socket) => socket.try_clone().map(AdminSocket::Tcp),
            AdminSocket::Unix(socket, place) => {
                socket.try_clone().map(|socket| AdminSocket::Unix(socket, Arc::clone(place)))
            }
        };
        let metrics = self.metrics.as_ref().map(std::net::TcpListener::try_clone).transpose();
        match (admin, metrics) {
            (Ok(admin), Ok(metrics)) => Ok(Self { admin, metrics }),
            (Err(error), _) | (_, Err(error)) => Err(failed(error)),
        }
    }

    pub(super) fn serve(
        self,
        backend: &Arc<dyn admin::Backend>,
        access: &Access,
        registry: &Arc<Registry>,
        closes: &watch::Receiver<bool>,
        tasks: &mut Tasks,
    ) -> Result<(), RunError> {
        let tcp = |socket| TcpListener::from_std(socket).map(Listener::Tcp);
        let admin = match self.admin {
            AdminSocket::Tcp(socket) => tcp(socket),
            AdminSocket::Unix(socket, place) => {
                UnixListener::from_std(socket).map(|listener| Listener::Unix(listener, place))
            }
        };
        let sockets = [(Some(admin), Scope::Full), (self.metrics.map(tcp), Scope::MetricsOnly)];
        for (listener, scope) in sockets {
            let Some(listener) = listener else { continue };
            let listener = listener.map_err(RunError::start("cannot open the admin listener"))?;
            let serving = Serving {
                backend: Arc::clone(backend),
                scope,
                access: access.clone(),
                metrics: AdminMetrics::resolve(registry),
            };
            tasks.spawn("admin", admin::serve(listener, serving, closes.clone()));
        }
        Ok(())
    }
}
