//! Listeners as they are in force.

use serde_json::{Value, json};

use super::{host_pattern, limit, mtls, object, put, put_list, traffic};
use crate::{
    config::{
        sections::listeners::{ESCAPED_SLASHES, UNDERSCORES},
        value::{show_duration, show_size, word_for},
    },
    proxy::{ListenerParams, ListenersParams, Normalisation, ServerNameRoute, TcpListenerParams},
};

pub(super) fn section(listeners: &ListenersParams) -> Value {
    let ListenersParams {
        inbound,
        outbound,
        tcp,
        tcp_idle_timeout,
        detect_timeout,
        transparent,
        max_connections,
        connection_rate,
        max_requests,
        header_timeout,
        idle_timeout,
        request_timeout,
        stream_idle_timeout,
        max_header_bytes,
        max_headers,
        normalisation,
        mtls: _,
    } = listeners;
    let mut fields = object(json!({
        "inbound": listener(inbound.as_ref()),
        "outbound": listener(outbound.as_ref()),
        "tcp_idle_timeout": show_duration(*tcp_idle_timeout),
        "detect_timeout": limit(*detect_timeout),
        "transparent": transparent,
        "max_connections": max_connections,
        "connection_rate": connection_rate.as_ref().map_or_else(|| "none".to_owned(), |limit| traffic::rate(limit.rate)),
        "max_requests": max_requests,
        "header_timeout": show_duration(*header_timeout),
        "idle_timeout": show_duration(*idle_timeout),
        "request_timeout": limit(*request_timeout),
        "stream_idle_timeout": show_duration(*stream_idle_timeout),
        "max_header_size": show_size(*max_header_bytes),
        "max_headers": max_headers,
        "normalize": normalize(*normalisation),
    }));
    put_list(&mut fields, "tcp", tcp.iter().map(tcp_listener));
    Value::Object(fields)
}

fn tcp_listener(listener: &TcpListenerParams) -> Value {
    let TcpListenerParams {
        name,
        address,
        requires_proxy_header,
        routes,
        service,
        idle_timeout,
        max_connections,
    } = listener;
    let mut fields = object(json!({
        "name": &**name,
        "address": address.to_string(),
        "proxy_protocol": proxy_protocol(*requires_proxy_header),
        "idle_timeout": show_duration(*idle_timeout),
        "max_connections": max_connections,
    }));
    put_list(&mut fields, "routes", routes.iter().map(server_name_route));
    put(&mut fields, "service", service.as_deref());
    Value::Object(fields)
}

fn server_name_route(ServerNameRoute { names, service }: &ServerNameRoute) -> Value {
    json!({ "sni": names.iter().map(host_pattern).collect::<Vec<_>>(), "service": &**service })
}

fn proxy_protocol(required: bool) -> &'static str {
    if required { "required" } else { "none" }
}

fn listener(listener: Option<&ListenerParams>) -> Value {
    let Some(ListenerParams {
        address,
        balance_connections,
        requires_proxy_header,
        detect,
        passthrough,
        tls,
    }) = listener
    else {
        return json!({ "enabled": false });
    };
    let balance = if *balance_connections { "exact" } else { "kernel" };
    let mut fields = object(json!({
        "enabled": true,
        "address": address.to_string(),
        "connection_balance": balance,
        "proxy_protocol": proxy_protocol(*requires_proxy_header),
        "passthrough": passthrough,
    }));
    // Only the inbound listener has the key.
    put(&mut fields, "detect", detect.then_some(true));
    put(&mut fields, "tls", tls.as_ref().map(mtls::edge));
    Value::Object(fields)
}

fn normalize(normalisation: Normalisation) -> Value {
    let Normalisation { escaped_slashes, merge_slashes, underscores } = normalisation;
    json!({
        "escaped_slashes": word_for(&escaped_slashes, &ESCAPED_SLASHES),
        "merge_slashes": merge_slashes,
        "headers_with_underscores": word_for(&underscores, &UNDERSCORES),
    })
}
