//! The message streams of a connection that publish or play, or have asked to.

use crate::record::{RecordError, ensure};
use crate::server::{MAX_ACTIVE, StreamKey};
use serde::{Deserialize, Serialize};

/// What a message stream does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Activity {
    PublishAsked,
    Publishing,
    PlayAsked {
        /// The client wants to be told that a playlist was reset.
        resets: bool,
    },
    Playing,
}

impl Activity {
    fn publishes(self) -> bool {
        matches!(self, Self::PublishAsked | Self::Publishing)
    }
}

/// What the player of a message stream wants to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wants {
    pub(super) audio: bool,
    pub(super) video: bool,
}

impl Wants {
    const ALL: Self = Self { audio: true, video: true };
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Active {
    pub(super) msid: u32,
    pub(super) activity: Activity,
    key: StreamKey,
}

/// See the [module](self). Plain data.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Streams {
    /// Those that do nothing are not here: an id alone costs nothing.
    active: Vec<Active>,
    /// What those want that do not want all, also before they play; the last [`MAX_ACTIVE`] to say so.
    wants: Vec<(u32, Wants)>,
    /// The newest id that was given out.
    newest: u32,
    /// More than one has published: media belong to the stream that they name.
    is_shared: bool,
    /// The id of the last that published.
    published: u32,
}

impl Streams {
    /// A new id, the lowest there can be: clients like 1.
    pub(super) fn create(&mut self) -> u32 {
        loop {
            self.newest = self.newest.checked_add(1).unwrap_or(1);
            if self.find(self.newest).is_none() {
                return self.newest;
            }
        }
    }

    /// The client will not use `msid` any more.
    pub(super) fn delete(&mut self, msid: u32) {
        self.want(msid, Wants::ALL);
        if msid == self.newest && msid > 0 {
            self.newest -= 1;
        }
    }

    /// The stream that a publish or play with this id in its header means: some clients put 0 there.
    pub(super) fn meant(&self, msid: u32) -> u32 {
        if msid == 0 { self.newest.max(1) } else { msid }
    }

    pub(super) fn find(&self, msid: u32) -> Option<Activity> {
        self.active.iter().find(|active| active.msid == msid).map(|active| active.activity)
    }

    /// The active stream that a command with this id in its header means: with 0 the only one.
    pub(super) fn active(&self, msid: u32) -> Option<u32> {
        match &self.active[..] {
            [only] if msid == 0 => Some(only.msid),
            _ => self.find(msid).map(|_| msid),
        }
    }

    /// The playing stream that a command with this id in its header means: itself, or the only one that plays.
    pub(super) fn playing(&self, msid: u32) -> Option<u32> {
        self.one(msid, |activity| activity == Activity::Playing)
    }

    /// The publishing stream that media with this id in their header belong to. Senders differ in it: as long as the connection
    /// has published on one stream alone, they are of that.
    pub(super) fn publishing(&self, msid: u32) -> Option<u32> {
        let publishes = |activity| activity == Activity::Publishing;
        if self.is_shared {
            self.find(msid).filter(|a| publishes(*a)).map(|_| msid)
        } else {
            self.one(msid, publishes)
        }
    }

    /// The stream that publishes `key`, or else the only one that publishes: clients cut the name as they like.
    pub(super) fn publisher_of(&self, key: Option<&StreamKey>) -> Option<u32> {
        let named = self.active.iter().find(|active| active.activity.publishes() && Some(&active.key) == key);
        named.map(|active| active.msid).or_else(|| self.one(0, Activity::publishes))
    }

    fn one(&self, msid: u32, is_meant: impl Fn(Activity) -> bool) -> Option<u32> {
        let mut meant = self.active.iter().filter(|active| is_meant(active.activity));
        let first = meant.next()?.msid;
        let others = meant.next().is_some();
        if self.find(msid).is_some_and(&is_meant) { Some(msid) } else { (!others).then_some(first) }
    }

    /// What the player of `msid` wants, or will.
    pub(super) fn wants(&self, msid: u32) -> Wants {
        self.wants.iter().find(|(of, _)| *of == msid).map_or(Wants::ALL, |(_, wants)| *wants)
    }

    /// It wants this from now on.
    pub(super) fn want(&mut self, msid: u32, wants: Wants) {
        self.wants.retain(|(of, _)| *of != msid);
        if wants != Wants::ALL {
            if self.wants.len() >= MAX_ACTIVE {
                self.wants.remove(0);
            }
            self.wants.push((msid, wants));
        }
    }

    /// Who has played for longest.
    pub(super) fn longest_playing(&self) -> Option<u32> {
        self.active.iter().find(|active| active.activity == Activity::Playing).map(|active| active.msid)
    }

    /// Whether one more may be active.
    pub(super) fn has_room(&self) -> bool {
        self.active.len() < MAX_ACTIVE
    }

    /// `msid` asks, and does nothing else any more.
    pub(super) fn ask(&mut self, msid: u32, activity: Activity, key: StreamKey) {
        self.stop(msid);
        self.active.push(Active { msid, activity, key });
    }

    /// Whoever asks, if one does.
    pub(super) fn asked(&mut self) -> Option<&mut Active> {
        let is_asking = |active: &&mut Active| {
            matches!(active.activity, Activity::PublishAsked | Activity::PlayAsked { .. })
        };
        self.active.iter_mut().find(is_asking)
    }

    /// `msid` publishes from now on.
    pub(super) fn note_published(&mut self, msid: u32) {
        self.is_shared |= self.published != 0 && self.published != msid;
        self.published = msid;
    }

    /// What `msid` did until now.
    pub(super) fn stop(&mut self, msid: u32) -> Option<Activity> {
        let index = self.active.iter().position(|active| active.msid == msid)?;
        Some(self.active.remove(index).activity)
    }

    /// Whether they can have been left by a connection that `has_connected`.
    pub(super) fn check(&self, has_connected: bool) -> Result<(), RecordError> {
        let Self { active, wants, .. } = self;
        ensure(has_connected || (active.is_empty() && wants.is_empty()), "streams before connect")?;
        ensure(active.len() <= MAX_ACTIVE && wants.len() <= MAX_ACTIVE, "number of streams")?;
        let are_different = active
            .iter()
            .enumerate()
            .all(|(index, one)| active.iter().take(index).all(|other| other.msid != one.msid));
        ensure(are_different, "two streams with one id")
    }

    /// Bytes on the heap.
    pub(super) fn held(&self) -> usize {
        let keys: usize = self.active.iter().map(|active| active.key.as_str().len()).sum();
        keys + self.active.capacity() * size_of::<Active>()
            + self.wants.capacity() * size_of::<(u32, Wants)>()
    }
}
