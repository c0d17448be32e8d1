//! Pure decisions: which route, which endpoint, healthy or not, again or not. Time and chance are arguments;
//! nothing here can name a socket, a task, a lock or a clock.

pub mod affinity;
pub mod authz;
pub mod balance;
pub mod breaker;
pub mod classify;
pub mod concurrency;
pub mod deadline;
pub mod ewma;
pub mod fault;
pub mod health;
pub mod latency;
pub mod limit;
pub mod locality;
pub mod outlier;
pub mod overload;
pub mod panic_threshold;
pub mod retry;
pub mod route;
pub mod slow_start;
pub mod traffic;
pub mod window;
