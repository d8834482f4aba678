//! Playing: who may, and its place among the players of a stream.

use std::rc::Rc;

use rtmp::server::StreamKey;
use stream::{Cursor, Recipient};

use super::player::Player;
use crate::channel::Channel;
use crate::conn::handle::Conn;
use crate::conn::machine::Refusal;
use crate::hub::Hub;
use crate::limits::NAMES_MAX;
use crate::tally::Limit;

/// A place among the players of a stream; dropping it gives it up.
pub(crate) struct Playing {
    hub: Rc<Hub>,
    channel: Rc<Channel>,
    pub(crate) player: Rc<Player>,
}

/// Makes `conn` a player of `key`, if there is room; `msid` is the message stream it plays on, `length` how much of it, ms.
pub(crate) fn play(
    hub: &Rc<Hub>,
    key: &StreamKey,
    msid: u32,
    length: Option<u64>,
    conn: &Rc<Conn>,
) -> Result<Playing, Refusal> {
    if !hub.spec.borrow().drain.is_no() {
        return Err(Refusal {
            code: "NetStream.Play.Failed",
            description: "this port is taken out of its cluster; play from another one".to_owned(),
        });
    }
    let max = hub.spec.borrow().options.max_connections;
    let has_media = hub.find(key).is_some_and(|channel| channel.is_held());
    if hub.players.get() >= max && !hub.displace_waiting(conn, has_media) {
        hub.tally.count(Limit::Players, hub.now());
        return Err(Refusal {
            code: "NetStream.Play.Failed",
            description: format!("full: {max} players (max_connections)"),
        });
    }
    if hub.find(key).is_none() {
        hub.make_room_for_name();
    }
    let channel = hub.channel(key, NAMES_MAX).ok_or_else(|| {
        hub.tally.count(Limit::Names, hub.now());
        Refusal {
            code: "NetStream.Play.StreamNotFound",
            description: format!("{NAMES_MAX} streams are in use, the limit"),
        }
    })?;
    let mut cursor = Cursor::new(Recipient::Player, msid, begin(hub, &channel));
    if let Some(length) = length {
        cursor.end_after(length);
    }
    Ok(Playing::new(hub, channel, Player::new(Rc::clone(conn), msid, cursor, &hub.keeping)))
}

/// Where a player begins that comes now; what lies behind it is kept for it.
fn begin(hub: &Hub, channel: &Channel) -> u64 {
    let from = {
        let log = channel.log();
        if channel.is_publishing() { log.start(hub.spec.borrow().options.gop_cache) } else { log.end() }
    };
    channel.begin_reader(from);
    from
}

impl Playing {
    pub(crate) fn new(hub: &Rc<Hub>, channel: Rc<Channel>, player: Rc<Player>) -> Self {
        channel.players.borrow_mut().push(Rc::clone(&player));
        hub.players.set(hub.players.get() + 1);
        Self { hub: Rc::clone(hub), channel, player }
    }

    /// The stream that it plays.
    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Where the player begins if it begins anew; what lies behind it is kept for it.
    pub(crate) fn begin(&self) -> u64 {
        begin(&self.hub, &self.channel)
    }

    /// A player that is parked and could take more has its turn among those that catch up.
    pub(crate) fn catch_up(&self) {
        self.hub.queue(&self.channel, &self.player);
    }

    /// Sends what there is.
    pub(crate) fn flush(&self) {
        self.player.flush(&self.channel.log(), &self.hub.counters, self.hub.now());
    }
}

impl Drop for Playing {
    fn drop(&mut self) {
        // It may be among those that catch up.
        self.player.leave();
        {
            let mut players = self.channel.players.borrow_mut();
            if let Some(index) = players.iter().position(|player| Rc::ptr_eq(player, &self.player)) {
                players.swap_remove(index);
            }
        }
        self.channel.removals.set(self.channel.removals.get() + 1);
        self.hub.forget_if_useless(&self.channel);
        self.hub.players.set(self.hub.players.get() - 1);
    }
}
