//! Room for records of many sizes, each known by a number that stays as long as it does.
//!
//! Records are made of 16-byte granules and never move by themselves: growing costs one chunk, never a copy of the table.
//! A chunk has records of one size; when all of them are free it serves any size, so that what grew leaves no holes behind.

const GRANULE: usize = 16;
const CHUNK: usize = 16 * 1024;
const CHUNK_GRANULES: usize = CHUNK / GRANULE;

/// The number of no record.
pub const NONE: u32 = u32::MAX;

/// The records.
#[derive(Debug)]
pub struct Arena {
    chunks: Vec<Chunk>,
    /// Chunks with room, by the size of their records in granules. One that has been emptied meanwhile, and
    /// perhaps serves another size, is passed over.
    open: Vec<Vec<u32>>,
    /// Chunks without records.
    empty: Vec<u32>,
}

#[derive(Debug)]
struct Chunk {
    bytes: Box<[u8]>,
    /// Granules of each of its records; 0 while it has none.
    size: usize,
    records: usize,
    /// Granules from here on were never used.
    fresh: usize,
    /// First freed record; its first 4 bytes lead to the next.
    free: u32,
}

impl Chunk {
    fn has_room(&self) -> bool {
        self.free != NONE || self.fresh + self.size <= CHUNK_GRANULES
    }
}

impl Arena {
    /// For records of at most `largest` bytes.
    pub fn new(largest: usize) -> Arena {
        let sizes = largest.div_ceil(GRANULE) + 1;
        Arena { chunks: Vec::new(), open: vec![Vec::new(); sizes], empty: Vec::new() }
    }

    /// The record and what follows it in its chunk.
    #[inline]
    pub fn record(&self, id: u32) -> &[u8] {
        let id = id as usize;
        &self.chunks[id / CHUNK_GRANULES].bytes[id % CHUNK_GRANULES * GRANULE..]
    }

    /// As [`Arena::record`].
    pub fn record_mut(&mut self, id: u32) -> &mut [u8] {
        let id = id as usize;
        &mut self.chunks[id / CHUNK_GRANULES].bytes[id % CHUNK_GRANULES * GRANULE..]
    }

    /// Keeps a record, and gives its number.
    pub fn store(&mut self, record: &[u8]) -> u32 {
        let id = self.reserve(record.len().div_ceil(GRANULE));
        self.record_mut(id)[..record.len()].copy_from_slice(record);
        id
    }

    /// A free record of this size.
    fn reserve(&mut self, size: usize) -> u32 {
        let at = self.with_room(size);
        let chunk = &mut self.chunks[at as usize];
        let mut id = chunk.free;
        if id == NONE {
            id = at * CHUNK_GRANULES as u32 + chunk.fresh as u32;
            chunk.fresh += size;
        } else {
            let freed = chunk.bytes[id as usize % CHUNK_GRANULES * GRANULE..].first_chunk();
            chunk.free = freed.map_or(NONE, |next| u32::from_le_bytes(*next));
        }
        chunk.records += 1;
        if !chunk.has_room() {
            self.open[size].pop();
        }
        id
    }

    /// A chunk with room for a record of this size, which is the last of its open ones.
    fn with_room(&mut self, size: usize) -> u32 {
        while let Some(&at) = self.open[size].last() {
            let chunk = &self.chunks[at as usize];
            if chunk.size == size && chunk.has_room() {
                return at;
            }
            self.open[size].pop();
        }
        let at = self.empty.pop().unwrap_or_else(|| {
            let bytes = vec![0; CHUNK].into_boxed_slice();
            self.chunks.push(Chunk { bytes, size: 0, records: 0, fresh: 0, free: NONE });
            self.chunks.len() as u32 - 1
        });
        self.chunks[at as usize].size = size;
        self.open[size].push(at);
        at
    }

    /// Frees a record.
    pub fn release(&mut self, id: u32) {
        let at = id / CHUNK_GRANULES as u32;
        let chunk = &mut self.chunks[at as usize];
        chunk.records -= 1;
        if chunk.records == 0 {
            (chunk.size, chunk.fresh, chunk.free) = (0, 0, NONE);
            self.empty.push(at);
            return;
        }
        if !chunk.has_room() {
            self.open[chunk.size].push(at);
        }
        let next = std::mem::replace(&mut chunk.free, id);
        self.record_mut(id)[..4].copy_from_slice(&next.to_le_bytes());
    }

    /// Chunks, and those of them without records.
    #[cfg(test)]
    pub fn chunks(&self) -> (usize, usize) {
        (self.chunks.len(), self.empty.len())
    }
}
