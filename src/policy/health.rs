//! Turns the results of active health checks into healthy and unhealthy, with thresholds.
