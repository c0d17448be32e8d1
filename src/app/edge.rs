//! Follows the certificates that are shown to clients outside of the mesh.

use std::{sync::Arc, time::Duration};

use crate::{
    identity::edge::EdgeTls,
    rt::{DrainWatch, Phase},
};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Takes up new certificates until the process leaves. What is no good is told once, and those in use go on.
pub(super) async fn follow(tls: Arc<EdgeTls>, mut drain: DrainWatch) {
    let mut problem = None;
    loop {
        tokio::select! {
            () = drain.reached(Phase::Stopped) => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let looking = Arc::clone(&tls);
        // A file on a dead server must not stop the control runtime.
        let Ok(looked) = tokio::task::spawn_blocking(move || looking.look()).await else { continue };
        match looked {
            Ok(changed) => {
                if changed {
                    tracing::info!("new certificates are shown to clients outside of the mesh");
                }
                problem = None;
            }
            Err(error) => {
                // Files are written one after the other: what is wrong twice is wrong.
                let text = super::certificates::chain(&error);
                let known: Option<&(String, bool)> = problem.as_ref();
                let told = match known {
                    Some((before, told)) if *before == text => {
                        if !told {
                            tracing::error!(
                                problem = text,
                                "new certificates for clients outside of the mesh cannot be used"
                            );
                        }
                        true
                    }
                    _ => false,
                };
                problem = Some((text, told));
            }
        }
    }
}
