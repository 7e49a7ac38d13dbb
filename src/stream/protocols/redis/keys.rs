//! Which commands there are, and where their keys stand: as redis-server 7 says by COMMAND.

/// Where the keys of a command stand, counted from its name, which is 1.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keys {
    None,
    /// One, behind the name.
    One,
    /// All arguments.
    All,
    /// Each second argument.
    Pairs,
    /// All but the last argument, which is a timeout.
    AllButLast,
    /// The first two.
    Two,
    /// All from the second on.
    FromSecond,
    /// The second.
    Second,
    /// The third.
    Third,
}

/// Commands whose keys do not stand as in [`Keys::One`], sorted.
const OTHERS: &[(&str, Keys)] = &[
    ("acl", Keys::None),
    ("asking", Keys::None),
    ("auth", Keys::None),
    ("bgrewriteaof", Keys::None),
    ("bgsave", Keys::None),
    ("bitop", Keys::FromSecond),
    ("blmove", Keys::Two),
    ("blmpop", Keys::None),
    ("blpop", Keys::AllButLast),
    ("brpop", Keys::AllButLast),
    ("brpoplpush", Keys::Two),
    ("bzmpop", Keys::None),
    ("bzpopmax", Keys::AllButLast),
    ("bzpopmin", Keys::AllButLast),
    ("client", Keys::None),
    ("cluster", Keys::None),
    ("command", Keys::None),
    ("config", Keys::None),
    ("copy", Keys::Two),
    ("dbsize", Keys::None),
    ("debug", Keys::None),
    ("del", Keys::All),
    ("discard", Keys::None),
    ("echo", Keys::None),
    ("eval", Keys::None),
    ("eval_ro", Keys::None),
    ("evalsha", Keys::None),
    ("evalsha_ro", Keys::None),
    ("exec", Keys::None),
    ("exists", Keys::All),
    ("failover", Keys::None),
    ("fcall", Keys::None),
    ("fcall_ro", Keys::None),
    ("flushall", Keys::None),
    ("flushdb", Keys::None),
    ("function", Keys::None),
    ("geosearchstore", Keys::Two),
    ("hello", Keys::None),
    ("info", Keys::None),
    ("keys", Keys::None),
    ("lastsave", Keys::None),
    ("latency", Keys::None),
    ("lcs", Keys::Two),
    ("lmove", Keys::Two),
    ("lmpop", Keys::None),
    ("lolwut", Keys::None),
    ("memory", Keys::None),
    ("mget", Keys::All),
    ("migrate", Keys::Third),
    ("module", Keys::None),
    ("monitor", Keys::None),
    ("mset", Keys::Pairs),
    ("msetnx", Keys::Pairs),
    ("multi", Keys::None),
    ("object", Keys::None),
    ("pfcount", Keys::All),
    ("pfdebug", Keys::Second),
    ("pfmerge", Keys::All),
    ("pfselftest", Keys::None),
    ("ping", Keys::None),
    ("psubscribe", Keys::None),
    ("psync", Keys::None),
    ("publish", Keys::None),
    ("pubsub", Keys::None),
    ("punsubscribe", Keys::None),
    ("quit", Keys::None),
    ("randomkey", Keys::None),
    ("readonly", Keys::None),
    ("readwrite", Keys::None),
    ("rename", Keys::Two),
    ("renamenx", Keys::Two),
    ("replconf", Keys::None),
    ("replicaof", Keys::None),
    ("reset", Keys::None),
    ("role", Keys::None),
    ("rpoplpush", Keys::Two),
    ("save", Keys::None),
    ("scan", Keys::None),
    ("script", Keys::None),
    ("sdiff", Keys::All),
    ("sdiffstore", Keys::All),
    ("select", Keys::None),
    ("shutdown", Keys::None),
    ("sinter", Keys::All),
    ("sintercard", Keys::None),
    ("sinterstore", Keys::All),
    ("slaveof", Keys::None),
    ("slowlog", Keys::None),
    ("smove", Keys::Two),
    ("ssubscribe", Keys::All),
    ("subscribe", Keys::None),
    ("sunion", Keys::All),
    ("sunionstore", Keys::All),
    ("sunsubscribe", Keys::All),
    ("swapdb", Keys::None),
    ("sync", Keys::None),
    ("time", Keys::None),
    ("touch", Keys::All),
    ("unlink", Keys::All),
    ("unsubscribe", Keys::None),
    ("unwatch", Keys::None),
    ("wait", Keys::None),
    ("watch", Keys::All),
    ("xgroup", Keys::None),
    ("xinfo", Keys::None),
    ("xread", Keys::None),
    ("xreadgroup", Keys::None),
    ("zdiff", Keys::None),
    ("zinter", Keys::None),
    ("zintercard", Keys::None),
    ("zmpop", Keys::None),
    ("zrangestore", Keys::Two),
    ("zunion", Keys::None),
];

/// Commands whose one key stands behind the name, sorted.
const ONE: &[&str] = &[
    "append",
    "bitcount",
    "bitfield",
    "bitfield_ro",
    "bitpos",
    "decr",
    "decrby",
    "dump",
    "expire",
    "expireat",
    "expiretime",
    "geoadd",
    "geodist",
    "geohash",
    "geopos",
    "georadius",
    "georadius_ro",
    "georadiusbymember",
    "georadiusbymember_ro",
    "geosearch",
    "get",
    "getbit",
    "getdel",
    "getex",
    "getrange",
    "getset",
    "hdel",
    "hexists",
    "hget",
    "hgetall",
    "hincrby",
    "hincrbyfloat",
    "hkeys",
    "hlen",
    "hmget",
    "hmset",
    "hrandfield",
    "hscan",
    "hset",
    "hsetnx",
    "hstrlen",
    "hvals",
    "incr",
    "incrby",
    "incrbyfloat",
    "lindex",
    "linsert",
    "llen",
    "lpop",
    "lpos",
    "lpush",
    "lpushx",
    "lrange",
    "lrem",
    "lset",
    "ltrim",
    "move",
    "persist",
    "pexpire",
    "pexpireat",
    "pexpiretime",
    "pfadd",
    "psetex",
    "pttl",
    "restore",
    "restore-asking",
    "rpop",
    "rpush",
    "rpushx",
    "sadd",
    "scard",
    "set",
    "setbit",
    "setex",
    "setnx",
    "setrange",
    "sismember",
    "smembers",
    "smismember",
    "sort",
    "sort_ro",
    "spop",
    "spublish",
    "srandmember",
    "srem",
    "sscan",
    "strlen",
    "substr",
    "ttl",
    "type",
    "xack",
    "xadd",
    "xautoclaim",
    "xclaim",
    "xdel",
    "xlen",
    "xpending",
    "xrange",
    "xrevrange",
    "xsetid",
    "xtrim",
    "zadd",
    "zcard",
    "zcount",
    "zdiffstore",
    "zincrby",
    "zinterstore",
    "zlexcount",
    "zmscore",
    "zpopmax",
    "zpopmin",
    "zrandmember",
    "zrange",
    "zrangebylex",
    "zrangebyscore",
    "zrank",
    "zrem",
    "zremrangebylex",
    "zremrangebyrank",
    "zremrangebyscore",
    "zrevrange",
    "zrevrangebylex",
    "zrevrangebyscore",
    "zrevrank",
    "zscan",
    "zscore",
    "zunionstore",
];

fn of(command: &[u8]) -> Keys {
    match OTHERS.binary_search_by(|(name, _)| name.as_bytes().cmp(command)) {
        Ok(at) => OTHERS[at].1,
        Err(_) => Keys::One,
    }
}

/// Is this a command of Redis? Others may come from modules.
pub fn is_known(command: &[u8]) -> bool {
    of(command) != Keys::One || ONE.binary_search_by(|name| name.as_bytes().cmp(command)).is_ok()
}

/// Has the command (lower case) keys at all, as far as its name tells?
pub fn has_keys(command: &[u8]) -> bool {
    of(command) != Keys::None
}

/// Is argument `index` of `count` a key? The name is argument 1.
pub fn is_key(command: &[u8], index: u64, count: u64) -> bool {
    index > 1
        && match of(command) {
            Keys::None => false,
            Keys::One => index == 2,
            Keys::All => true,
            Keys::Pairs => index.is_multiple_of(2),
            Keys::AllButLast => index < count,
            Keys::Two => index <= 3,
            Keys::FromSecond => index > 2,
            Keys::Second => index == 3,
            Keys::Third => index == 4,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_sorted() {
        assert!(OTHERS.is_sorted_by(|a, b| a.0 < b.0) && ONE.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn keys_stand_where_redis_says() {
        let keys = |command: &str, count: u64| {
            (1..=count).filter(|index| is_key(command.as_bytes(), *index, count)).collect::<Vec<_>>()
        };
        assert_eq!(keys("set", 4), [2]);
        assert_eq!(keys("mset", 5), [2, 4]);
        assert_eq!(keys("blpop", 4), [2, 3]);
        assert_eq!(keys("bitop", 5), [3, 4, 5]);
        assert_eq!(keys("migrate", 6), [4]);
        assert!(keys("ping", 2).is_empty());
        assert!(is_known(b"zunionstore") && is_known(b"ping") && !is_known(b"json.get"));
    }
}
