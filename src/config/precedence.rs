//! The routes in the order in which requests are compared with them, for people.

use super::Bundle;
use crate::policy::route::{PrecedenceRow, RouteTable};

/// One line for each route and host, highest precedence first: rank, name, host, path, other conditions.
#[must_use]
pub fn routes_in_order(bundle: &Bundle) -> String {
    let rows = RouteTable::compile(&bundle.directory.routes).precedence();
    let width = |cell: fn(&PrecedenceRow) -> &str| {
        rows.iter().map(|row| cell(row).chars().count()).max().unwrap_or(0)
    };
    let (name, host, path) = (width(|row| &row.name), width(|row| &row.host), width(|row| &row.path));
    let line = |row: &PrecedenceRow| {
        let PrecedenceRow { rank, route: _, name: called, host: hosts, path: paths, conditions } = row;
        let line = format!("{rank:>4}  {called:name$}  {hosts:host$}  {paths:path$}  {conditions}");
        format!("{}\n", line.trim_end())
    };
    rows.iter().map(line).collect()
}
