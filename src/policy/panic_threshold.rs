//! Decides when so few endpoints are healthy that using all of them is the lesser evil.
