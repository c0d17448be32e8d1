//! `outrigger ca restore`: the directory of an authority out of the copy that the store of its mesh keeps.

use std::{
    fmt::Write as _,
    io::Read as _,
    path::{Path, PathBuf},
};

use super::{Place, exit, failure::Failure};
use crate::{
    cli::admin::{AdminArgs, AskError},
    identity::ca::{Authority, COPY_KEY, CaError, Restored},
    rt,
};

#[derive(clap::Args, Debug)]
#[command(
    after_help = "The sidecar that is to hold it needs a part in the store (`store:`), and the right to write there: then whoever held\n\
                  the authority before refuses to sign as soon as it hears of it. Without a quorum, take the copy that a sidecar has;\n\
                  what was issued and revoked after it is lost, also when the quorum returns.\n\n\
                  Examples:\n  outrigger ca restore --key-file /root/ca.key\n  \
                  outrigger kv get outrigger/authority --consistency eventual --raw > copy\n  \
                  outrigger ca restore --key-file /root/ca.key --copy copy"
)]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    admin: AdminArgs,
    /// Take the copy from this file instead of asking a sidecar
    #[arg(long, value_name = "FILE")]
    copy: Option<PathBuf>,
}

pub(super) fn restore(args: &RestoreArgs) -> Result<String, Failure> {
    let place = &args.place;
    if Authority::is_in(&place.dir) {
        return Err(CaError::Exists(place.dir.clone()).into());
    }
    let key = place.key()?;
    let copy = match &args.copy {
        Some(file) => read(file)?,
        None => ask(&args.admin)?,
    };
    let now = rt::clock::wall();
    let Restored { authority, made_at } = Authority::restore(&place.dir, &key, &copy, now)?;
    let status = authority.status(now)?;
    let mut text = format!(
        "restored the certificate authority for {} in {}\n",
        status.trust_domain,
        place.dir.display()
    );
    for root in &status.roots {
        let _ = writeln!(text, "root {}   until {}", root.generation, root.not_after);
        let _ = writeln!(text, "         sha256 {}", root.fingerprint);
    }
    let _ = writeln!(
        text,
        "copy     of {made_at}, with {} certificate(s) that have not expired",
        status.leaves.len()
    );
    let _ = writeln!(
        text,
        "Name this directory in `mtls.ca.authority` of one sidecar that has a part in the store, and its address in\n\
         `mtls.ca.servers` of the others. What was revoked or issued after {made_at} is not known here."
    );
    Ok(text)
}

fn ask(admin: &AdminArgs) -> Result<Vec<u8>, Failure> {
    let found = admin.get(&format!("/v1/kv?key={COPY_KEY}&level=strong"));
    let found = found.map_err(|error| match error {
        AskError::Refused(404, _) => Failure::new(
            exit::NOT_FOUND,
            format!("the store has no copy of a certificate authority ({COPY_KEY})"),
        ),
        other => other.into(),
    })?;
    let copy = found["value"].as_str().map(|text| text.as_bytes().to_vec());
    copy.ok_or_else(|| {
        Failure::failed(format!("what the store has in {COPY_KEY} is no copy of a certificate authority"))
    })
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let mut content = Vec::new();
    let opened = std::fs::File::open(file).and_then(|open| open.take(MAX_COPY).read_to_end(&mut content));
    opened.map_err(|error| Failure::failed(format!("cannot read {}: {error}", file.display())))?;
    Ok(content)
}

/// Twice what a value of the store may have.
const MAX_COPY: u64 = 1024 * 1024;
