//! Who asks for a change, as the store writes it down: a user of this machine, whoever has the token, or whoever is at an
//! address.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
};

use super::server::Caller;

/// Who is behind `caller`: `user/alice`, `uid/1000` if the user has no name here, `token/10.0.0.5` or
/// `address/127.0.0.1`.
pub(super) async fn author(caller: &Caller, has_token: bool) -> String {
    match caller {
        Caller::Unix { uid: Some(uid) } => {
            let uid = *uid;
            // A file, though a small one of this machine.
            let name = tokio::task::spawn_blocking(move || user(Path::new(USERS), uid)).await;
            name.ok().flatten().map_or_else(|| format!("uid/{uid}"), |name| format!("user/{name}"))
        }
        Caller::Unix { uid: None } => "unix".to_owned(),
        Caller::Tcp { peer, .. } if has_token => format!("token/{}", peer.ip().to_canonical()),
        Caller::Tcp { peer, .. } => format!("address/{}", peer.ip().to_canonical()),
    }
}

/// The name of a user, as passwd(5) has it. Blocks.
fn user(file: &Path, uid: u32) -> Option<String> {
    let lines = BufReader::new(File::open(file).ok()?.take(MAX_USERS)).lines();
    lines.map_while(Result::ok).find_map(|line| {
        let mut fields = line.split(':');
        let (name, its) = (fields.next()?, fields.nth(1)?);
        let is_name =
            !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(|byte| byte.is_ascii_graphic());
        (is_name && its.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

const USERS: &str = "/etc/passwd";
/// Bytes of it that are read.
const MAX_USERS: u64 = 1 << 20;
/// Longest name of a user.
const MAX_NAME: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_asks_over_the_network_is_known_by_token_or_address() {
        let from = |peer: &str| Caller::Tcp {
            peer: peer.parse().unwrap(),
            local: "10.0.0.1:15000".parse().unwrap(),
        };
        assert_eq!(author(&from("10.0.0.5:77"), true).await, "token/10.0.0.5");
        assert_eq!(author(&from("[::ffff:127.0.0.1]:77"), false).await, "address/127.0.0.1");
        assert_eq!(author(&Caller::Unix { uid: None }, false).await, "unix");
        // Nobody has this number.
        assert_eq!(author(&Caller::Unix { uid: Some(u32::MAX - 7) }, false).await, "uid/4294967288");
    }

    #[test]
    fn users_have_names() {
        let folder = std::env::temp_dir().join(format!("outrigger-users-{}", std::process::id()));
        let text = "root:x:0:0:root:/root:/bin/sh\n\n:x:7::\nodd name:x:8:8:::\nalice:x:1000:1000:,,,:/home/alice:/bin/sh\n";
        std::fs::write(&folder, text).unwrap();
        let names = [0, 7, 8, 1000, 1001].map(|uid| user(&folder, uid));
        std::fs::remove_file(&folder).unwrap();
        assert_eq!(names.map(Option::unwrap_or_default), ["root", "", "", "alice", ""]);
        assert_eq!(user(&folder, 0), None);
    }
}
