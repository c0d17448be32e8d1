//! `outrigger ca rotate`: says what the next step to a new root does to the mesh, and takes it when told to.

use std::fmt::Write as _;

use super::{Place, failure::Failure, failure::listed};
use crate::{
    identity::ca::{Force, Rotation, Step},
    rt,
};

#[derive(clap::Args, Debug)]
pub(super) struct RotateArgs {
    #[command(flatten)]
    place: Place,
    /// Take the step; without it, only say what it is
    #[arg(long)]
    yes: bool,
    /// Take the step although somebody is not ready for it
    #[arg(long)]
    force: bool,
}

pub(super) fn rotate(args: &RotateArgs) -> Result<String, Failure> {
    let authority = args.place.open()?;
    let force = if args.force { Force::Yes } else { Force::No };
    let now = rt::clock::wall();
    if !args.yes {
        return Ok(plan(&authority.rotation(now)?, force));
    }
    Ok(done(&authority.rotate(force, now)?))
}

fn plan(rotation: &Rotation, force: Force) -> String {
    let Rotation { old, new, .. } = rotation;
    let mut text = match rotation.step {
        Step::Trust => format!(
            "step 1 of 3, trust: makes root {new} and adds it to the bundle; root {old} still signs.\n\
             For the mesh: nothing changes until sidecars have the new bundle. Hand it out before step 2.\n"
        ),
        Step::Reissue => format!(
            "step 2 of 3, reissue: root {new} signs from now on; root {old} is still trusted.\n\
             For the mesh: a sidecar without the new bundle refuses certificates that are issued from now on.\n"
        ),
        Step::Drop => format!(
            "step 3 of 3, drop: root {old} leaves the bundle, and its key is deleted. This cannot be undone.\n\
             For the mesh: whoever has the new bundle refuses certificates of root {old}.\n"
        ),
    };
    let mut list = |leaves: &[_], what: &str| {
        if !leaves.is_empty() {
            let _ = writeln!(text, "{} {what}:", leaves.len());
            listed(leaves).iter().for_each(|line| {
                let _ = writeln!(text, "  {line}");
            });
        }
    };
    list(
        &rotation.unaware,
        &format!("certificate(s) were handed out without root {new}; their bearers may not trust it"),
    );
    if rotation.step == Step::Drop {
        list(&rotation.in_the_way, &format!("certificate(s) of root {old} have no successor of root {new}"));
    }
    if rotation.stale_tokens > 0 && rotation.step != Step::Trust {
        let _ = writeln!(text, "{} join token(s) pin only root {old}: make new ones", rotation.stale_tokens);
    }
    let is_in_the_way = match rotation.step {
        Step::Trust => false,
        Step::Reissue => !rotation.unaware.is_empty(),
        Step::Drop => !rotation.in_the_way.is_empty(),
    };
    let refused = is_in_the_way && force == Force::No;
    text.push_str(match refused {
        true => "It is refused while there are any, unless --force is given.\n",
        false => "Nothing was done. Do it with --yes.\n",
    });
    text
}

fn done(rotation: &Rotation) -> String {
    let Rotation { old, new, .. } = rotation;
    match rotation.step {
        Step::Trust => format!(
            "root {new} is trusted; root {old} signs\n\
             next: hand out the bundle (`outrigger ca bundle`, or with each certificate), then rotate again\n"
        ),
        Step::Reissue => format!(
            "root {new} signs; root {old} is trusted\n\
             next: issue every certificate anew, then rotate again\n"
        ),
        Step::Drop => format!("root {old} is dropped and its key deleted\nnext: hand out the bundle\n"),
    }
}
