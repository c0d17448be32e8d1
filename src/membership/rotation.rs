//! Changes of the keyring: carried out here, then by every living member that can be called. A new key is everywhere before
//! it is used, and an old one is in use nowhere before it goes.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::oneshot;

use super::{
    GossipKey, KeyHolders, KeyMark, KeyringError, KeyringOrder, KeyringReport, Member, MemberState,
    MembershipView,
    call::{KeyChange, Question},
    core::envelope::{Keyring, MAX_KEYS},
    driver::Driver,
    errands::{Done, ask},
};
use crate::rt::clock;

impl Driver {
    /// Carries out an order and has all others carry it out.
    pub(super) fn order(
        &mut self,
        order: &KeyringOrder,
        answer: oneshot::Sender<Result<KeyringReport, KeyringError>>,
    ) {
        // What is sealed with the key that is in use before the change can be opened by all.
        let sealed_with = self.keyring.clone();
        if let Err(error) = self.may(order).and_then(|()| self.carry_out(order)) {
            let _ = answer.send(Err(error));
            return;
        }
        let change = match order {
            KeyringOrder::Install(key) => KeyChange::Install(key.expose().to_owned()),
            KeyringOrder::Use(mark) => KeyChange::Use(mark.0),
            KeyringOrder::Remove(mark) => KeyChange::Remove(mark.0),
        };
        let others: Vec<(Arc<str>, SocketAddr)> = self
            .machine
            .view(clock::now())
            .members
            .iter()
            .filter(|member| member.id != self.machine.own().id && is_there(member))
            .filter_map(|member| Some((Arc::clone(&member.facts.as_ref()?.node), member.address)))
            .collect();
        let done = vec![Arc::clone(&self.machine.own().facts.node)];
        let line = self.errands.line().clone();
        self.errands.tasks.spawn(async move {
            let mut report = KeyringReport { done, failed: Vec::new() };
            let mut cards = Vec::new();
            // Some at a time, each with a limit: one that hangs keeps nobody waiting for long.
            for some in others.chunks(AT_ONCE) {
                let mut calls = tokio::task::JoinSet::new();
                for (node, address) in some.iter().cloned() {
                    let (line, keyring) = (line.clone(), sealed_with.clone());
                    let question = Question::Keyring(change.clone());
                    calls.spawn(async move { (node, ask(&line, address, &question, &keyring).await) });
                }
                while let Some(called) = calls.join_next().await {
                    match called {
                        Ok((node, Ok(heard))) => {
                            report.done.push(node);
                            cards.push(heard);
                        }
                        Ok((node, Err(error))) => report.failed.push((node, error.to_string())),
                        Err(_) => {}
                    }
                }
            }
            report.done.sort_unstable();
            report.failed.sort_unstable();
            Done::Told { report, cards, answer }
        });
    }

    /// Another member asks for a change.
    pub(super) fn change_keys(&mut self, change: KeyChange) -> Result<(), KeyringError> {
        let order = match change {
            KeyChange::Install(text) => {
                let key =
                    GossipKey::parse(&text).map_err(|error| KeyringError::Storage(error.to_string()))?;
                KeyringOrder::Install(key)
            }
            KeyChange::Use(mark) => KeyringOrder::Use(KeyMark(mark)),
            KeyChange::Remove(mark) => KeyringOrder::Remove(KeyMark(mark)),
        };
        self.carry_out(&order)
    }

    /// Whether an order can be carried out by all, as far as this node knows.
    fn may(&self, order: &KeyringOrder) -> Result<(), KeyringError> {
        let view = self.machine.view(clock::now());
        let others = |wanted: &dyn Fn(&[u32]) -> bool| {
            let own = self.machine.own().id;
            let names: Vec<&str> = view
                .members
                .iter()
                .filter(|member| member.id != own && is_there(member))
                .filter_map(|member| member.facts.as_ref())
                .filter(|facts| wanted(&facts.keys))
                .map(|facts| &*facts.node)
                .collect();
            names.join(", ")
        };
        match order {
            KeyringOrder::Install(_) => Ok(()),
            KeyringOrder::Use(mark) => {
                self.keyring.find(*mark).ok_or(KeyringError::Unknown(*mark))?;
                let names = others(&|keys| !keys.contains(&mark.0));
                if names.is_empty() {
                    Ok(())
                } else {
                    Err(KeyringError::NotEverywhere { mark: *mark, names })
                }
            }
            KeyringOrder::Remove(mark) => {
                let names = others(&|keys| keys.first() == Some(&mark.0));
                if names.is_empty() { Ok(()) } else { Err(KeyringError::InUse { mark: *mark, names }) }
            }
        }
    }

    fn carry_out(&mut self, order: &KeyringOrder) -> Result<(), KeyringError> {
        let mut keyring = self.keyring.clone();
        let own = || self.machine.own().facts.node.as_ref().to_owned();
        match order {
            KeyringOrder::Install(key) if !keyring.install(key) => return Err(KeyringError::Full(MAX_KEYS)),
            KeyringOrder::Install(_) => {}
            KeyringOrder::Use(mark) if !keyring.promote(*mark) => return Err(KeyringError::Unknown(*mark)),
            KeyringOrder::Use(_) => {}
            KeyringOrder::Remove(mark) if !keyring.remove(*mark) => {
                return Err(KeyringError::InUse { mark: *mark, names: own() });
            }
            KeyringOrder::Remove(_) => {}
        }
        // A small file, seldom; what is not kept must not be told to be.
        let kept = self.home.keep(&keyring).map_err(|error| KeyringError::Storage(error.to_string()))?;
        if !kept {
            tracing::warn!(
                "the keyring lasts until this process ends: there is no mesh.data_dir to keep it in"
            );
        }
        let (primary, keys) = (keyring.primary(), keyring.keys().count());
        self.keyring = keyring;
        tracing::info!(%primary, keys, "the keyring was changed");
        self.say();
        Ok(())
    }
}

/// Members that are told at a time.
const AT_ONCE: usize = 16;

fn is_there(member: &Member) -> bool {
    matches!(member.state, MemberState::Alive | MemberState::Suspect)
}

/// Which living members have which keys.
pub(super) fn holders(keyring: &Keyring, view: &MembershipView) -> Vec<KeyHolders> {
    let living: Vec<&[u32]> = view
        .members
        .iter()
        .filter(|member| is_there(member))
        .map(|member| member.facts.as_ref().map_or(&[][..], |facts| &facts.keys))
        .collect();
    keyring
        .keys()
        .map(|(mark, _)| KeyHolders {
            mark,
            is_primary: mark == keyring.primary(),
            holders: living.iter().filter(|keys| keys.contains(&mark.0)).count(),
            sealers: living.iter().filter(|keys| keys.first() == Some(&mark.0)).count(),
            members: living.len(),
        })
        .collect()
}
