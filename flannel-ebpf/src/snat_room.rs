//! Room for a flow that begins: see [`flannel_common::snat::Place`].

use core::cmp::Ordering;

use flannel_common::flow::Tick;
use flannel_common::header::Ip;
use flannel_common::reason::Reason;
use flannel_common::snat::{
    Key, LOOKS, NANOS, Place, Stand, Table as _, Whose, came_in, end, share, stand,
};

use crate::clock;
use crate::cluster::cluster;
use crate::globals::SNAT_PLACES;
use crate::maps::{LASTING, SHARES, YOUNG};
use crate::random;
use crate::route::{self, Forwarded};
use crate::skb::Skb;
use crate::snat_open::is_exempt;
use crate::snat_shares::{count_young, young};
use crate::snat_table::Snat;
use crate::snat_tx::leave;
use crate::snat_work::{self, Work};
use crate::verdict::Verdict;
use crate::{flows, forged, ours, outlets, snat_rewrite, xadd};

/// [`Work::after`] of a connection that comes in.
pub(crate) const CAME_IN: u32 = u32::MAX;

/// How a place stands, for whoever wants it.
const OVER: u8 = 0;
const LASTS: u8 = 1;
/// Of a young flow, whose pod has more of them; or as many: its own, most often.
const RICHER: u8 = 2;
const EQUAL: u8 = 3;
/// Either, but somebody has answered.
const ANSWERED: u8 = 4;
const KEEPS: u8 = 5;

#[inline(always)]
pub(crate) fn run(skb: &Skb) -> Result<Verdict, Reason> {
    let work = snat_work::get().ok_or(Reason::SnatUnready)?;
    if work.after == CAME_IN {
        return comes_in(work);
    }
    let skb = &Skb::again(skb.raw(), work.missing);
    if work.elsewhere {
        if is_copy(skb, work) {
            return Err(copied(skb, work));
        }
        // A route has changed.
        end(&Snat, &work.packet.key, work.node.now);
    }
    let wants = match work.whose {
        Whose::Pod if is_none_of_ours(skb, &work.ip) => return leave(work),
        Whose::Pod => of_pod(skb, work)?,
        Whose::Own if work.packet.is_icmp_answer() => return leave(work),
        Whose::Own => {
            // Where our pair is gone somebody else may serve the network. What he translates is the node's own by now; what a pod's
            // address is still on, nobody translates but us.
            ours::check(skb)?;
            of_node(skb, work)
        }
    };
    if let Some((key, share)) = wants
        && let Err(reason) = make(&key, share, work.node.now)
    {
        return match work.whose {
            Whose::Pod => Err(reason),
            // What the node itself sends goes out, however many flows there are.
            Whose::Own => leave(work),
        };
    }
    work.chance = random::secret_number();
    skb.step(work.after);
    Err(Reason::SnatUnready)
}

/// Whether a packet whose flow leaves by another device is the copy of one of its packets, for a collector (`TEE`, `mirred`): the
/// routing table leads to the flow's own device. Where it leads to neither (a mark on a kernel without [`route::LOOK_UP_MARK`]),
/// the flow was heard of a moment ago.
#[inline(always)]
fn is_copy(skb: &Skb, work: &Work) -> bool {
    let device = route::device(skb, &forwarded(&work.ip));
    if device == skb.ifindex() {
        return false;
    }
    device != 0 && outlets::is_lent(device, work.to.addr) || work.silent < NANOS
}

/// Its flow stays where it is, and nothing waits for an answer to this one.
#[inline(always)]
fn copied(skb: &Skb, work: &mut Work) -> Reason {
    work.to.addr = outlets::fitting(skb, work);
    snat_rewrite::endpoint(skb, Reason::Snat)
}

/// A place is wanted by a flow with this out key, in this share.
type Wants = Option<(Key, u32)>;

/// What somebody else can make the node send is noted within bounds, as what comes in for others is: whoever sends it
/// requests without end would else have the table, and the pods' flows in it. So is what it forwards in its own name: kube-proxy does
/// with whoever asks for a port of its Services.
#[inline(always)]
fn of_node(skb: &Skb, work: &Work) -> Wants {
    let packet = &work.packet;
    let noted = packet.is_worth_noting() && (packet.may_answer() || skb.came_by() != 0);
    noted.then(|| (packet.note(), share(&cluster(), packet.key.src, true)))
}

/// Whether netfilter had no say in whom the packet is from, or had it already.
///
/// Somebody beside this host sent it, who shares the device by macvlan: from another MAC. (Not in the name of a pod of ours: where the
/// device has got another MAC, of which the agent has not told yet, pods' own packets must not leave under their addresses.) Or by ipvlan: see [`route::is_of_a_neighbour`]. Or it was forwarded under an address of
/// the node's, which no packet that comes in has (a martian): a rule has given it that one, and NAT is done once.
#[inline(always)]
fn is_none_of_ours(skb: &Skb, ip: &Ip) -> bool {
    if cluster().has(ip.src) {
        return !cluster().owns(ip.src) && outlets::is_of_another(skb);
    }
    is_of_a_neighbour(skb, ip) || skb.came_by() != 0 && outlets::is_lent(0, ip.src)
}

#[inline(always)]
fn is_of_a_neighbour(skb: &Skb, ip: &Ip) -> bool {
    if outlets::is_of_another(skb) {
        return true;
    }
    route::is_of_a_neighbour(skb, &forwarded(ip))
}

#[inline(always)]
const fn forwarded(ip: &Ip) -> Forwarded {
    Forwarded {
        src: ip.src,
        dst: ip.dst,
        tos: ip.tos,
        proto: ip.proto,
    }
}

#[inline(always)]
fn of_pod(skb: &Skb, work: &mut Work) -> Result<Wants, Reason> {
    work.node.local = outlets::fitting(skb, work);
    forged::check_flow(work)?;
    let packet = &work.packet;
    // What belongs to no flow gets no entry.
    if !packet.may_open() || is_exempt(&work.ip) {
        return Ok(None);
    }
    let share = share(&cluster(), packet.key.src, false);
    Ok(Some((packet.key, share)))
}

#[inline(always)]
fn comes_in(work: &Work) -> Result<Verdict, Reason> {
    let now = clock::coarse_ns();
    let (key, note) = came_in(now, &work.packet);
    make(&key, share(&cluster(), key.src, true), now)?;
    Snat.claim(&key, &note);
    Ok(Verdict::Untouched)
}

/// Takes a place for the flow of an out key.
#[inline(always)]
fn make(key: &Key, whose: u32, now: u64) -> Result<(), Reason> {
    let places = SNAT_PLACES.load();
    let tick: Tick = flows::now();
    // SAFETY: an element of an array; other CPUs add to the same words.
    let too_much = LASTING
        .get_ptr(whose)
        .is_some_and(|lasting| unsafe { (*lasting).is_too_much(tick) });
    if too_much {
        return Err(Reason::SnatShare);
    }
    let mine = young(whose);
    let mut found = places;
    let mut stands = KEEPS;
    for _ in 0..LOOKS {
        let at = ((u64::from(random::number()) * u64::from(places)) >> 32) as u32;
        let standing = standing_at(at, mine, now);
        if standing < stands {
            found = at;
            stands = standing;
        }
        if stands < RICHER {
            break;
        }
    }
    if stands == KEEPS {
        return Err(Reason::SnatShare);
    }
    give_up(found, stands, now);
    if let Some(place) = YOUNG.get_ptr_mut(found) {
        // SAFETY: an element of an array. Two CPUs that take one place at once leave a key of no flow, or one flow without
        // a place.
        unsafe {
            *place = Place {
                key: *key,
                share: whose,
            }
        };
        count_young(whose, 1);
        if let Some(share) = SHARES.get_ptr_mut(whose) {
            // SAFETY: an element of an array, and an aligned word of it.
            unsafe { (*share).pod = key.src };
        }
    }
    Ok(())
}

/// How a place stands for one who has `mine` of them. A function of its own, which the verifier looks at once.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn standing_at(at: u32, mine: u32, now: u64) -> u8 {
    // Only who tries the programs on a few packets has fewer places than they are told.
    let Some(place) = YOUNG.get_ptr(at) else {
        return OVER;
    };
    // SAFETY: an element of an array. What is torn is no flow's key.
    let Place { key, share } = unsafe { *place };
    match stand(&Snat, &key, now) {
        Stand::Over => OVER,
        Stand::Lasts => LASTS,
        Stand::Young => match young(share).cmp(&mine) {
            Ordering::Greater => RICHER,
            Ordering::Equal => EQUAL,
            Ordering::Less => KEEPS,
        },
        Stand::Answered if young(share) >= mine => ANSWERED,
        Stand::Answered => KEEPS,
    }
}

/// Takes a place from the flow that has it.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn give_up(at: u32, stands: u8, now: u64) -> u8 {
    let Some(place) = YOUNG.get_ptr(at) else {
        return 0;
    };
    // SAFETY: as above.
    let Place { key, share } = unsafe { *place };
    if key.way == 0 {
        return 0;
    }
    count_young(share, u32::MAX);
    if stands == LASTS {
        if let Some(lasting) = LASTING.get_ptr_mut(share) {
            // SAFETY: an element of an array.
            let flows = unsafe { &raw mut (*lasting).flows };
            // SAFETY: an aligned word of it.
            unsafe { xadd::add(flows, 1) };
        }
        return 0;
    }
    end(&Snat, &key, now);
    if stands != OVER
        && let Some(share) = SHARES.get_ptr_mut(share)
    {
        // SAFETY: an element of an array.
        let ended = unsafe { &raw mut (*share).ended };
        // SAFETY: an aligned word of it.
        unsafe { xadd::add(ended, 1) };
    }
    0
}
