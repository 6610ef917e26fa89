-- One commit: everything is looked at before anything is written, so it happens whole or not at all.
--
-- KEYS: meta, state, foretold, the hash with the guards, whose turn it is; all of one pipeline.
-- ARGV: 1 generation, 2 epoch, 3 "alone" or "shared", 4 shape, and packed: 5 guards (field, expected, new),
-- 6 shared keys (key, expected, new), 7 other keys (key, new), 8 fields of meta (field, value),
-- 9 counts (field, by how much); 10 this process's token where it was too slow often, else "". Packed: for each part its length as u32, big-endian, then its bytes; a
-- length of all ones is a part that is not there.
--
-- Answers {what came of it, …}:
--   {"ok"}, {"done", values now of the shared keys} where this very commit is stored already,
--   {"stale", values now of the shared keys}, {"fenced", field}, {"generation", the stored one},
--   {"epoch", the stored one}, {"shape", the stored one}.
local meta, state, foretold, guarded = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local shared = ARGV[3] == 'shared'
local NONE = 4294967295
local TURN_MS = 500
local MANY = 1000 -- how many arguments one command gets

local function unpacked(packed)
  local parts, count, at = {}, 0, 1
  while at <= #packed do
    local length
    length, at = struct.unpack('>I4', packed, at)
    count = count + 1
    if length == NONE then
      parts[count] = false
    else
      parts[count] = string.sub(packed, at, at + length - 1)
      at = at + length
    end
  end
  return parts, count
end

local generation = redis.call('HGET', meta, 'generation') or '0'
if generation ~= ARGV[1] then return {'generation', generation} end

local keys, keys_count = unpacked(ARGV[6])
local function values_now(answer)
  local fields = {}
  for i = 1, keys_count, 3 do
    fields[#fields + 1] = keys[i]
    if #fields == MANY or i + 3 > keys_count then
      for _, value in ipairs(redis.call('HMGET', state, unpack(fields))) do answer[#answer + 1] = value end
      fields = {}
    end
  end
  return answer
end

-- The guards: who may commit, and from where on.
local guards, guards_count = unpacked(ARGV[5])
local done = guards_count > 0
local fenced = nil
for i = 1, guards_count, 3 do
  local now = redis.call('HGET', guarded, guards[i])
  if now ~= guards[i + 2] then done = false end
  if now ~= guards[i + 1] then fenced = fenced or guards[i] end
end
if done then return values_now({'done'}) end
if fenced then return {'fenced', fenced} end

local epoch = tonumber(ARGV[2])
local last = redis.call('HGET', meta, 'epoch') or '0'
if shared then
  local shape = redis.call('HGET', meta, 'shape')
  if shape and shape ~= ARGV[4] then return {'shape', shape} end
elseif epoch <= tonumber(last) then
  return {'epoch', last}
end
local waiting = redis.call('HGET', foretold, 'epoch')

-- Who was too slow often has its turn: the others wait, for as long as its answer may take.
local turn = keys_count > 0 and redis.call('GET', KEYS[5])
if turn and turn ~= ARGV[10] then
  return values_now({'stale'})
end
local now = values_now({})
for i = 1, keys_count, 3 do
  if now[(i + 2) / 3] ~= keys[i + 1] then
    if ARGV[10] ~= '' then redis.call('SET', KEYS[5], ARGV[10], 'PX', TURN_MS) end
    table.insert(now, 1, 'stale')
    return now
  end
end

-- From here on nothing can fail but for want of memory, which Redis refuses at the first write.
if turn then redis.call('DEL', KEYS[5]) end
local set, deleted = {}, {}
local function flush(command, of)
  if #of > 0 then redis.call(command, state, unpack(of)) end
  return {}
end
local function write(key, value)
  if value then
    set[#set + 1] = key
    set[#set + 1] = value
    if #set >= MANY then set = flush('HSET', set) end
  else
    deleted[#deleted + 1] = key
    if #deleted >= MANY then deleted = flush('HDEL', deleted) end
  end
end
local counts, counts_count = unpacked(ARGV[9])
for i = 1, counts_count, 2 do redis.call('HINCRBY', meta, counts[i], counts[i + 1]) end
for i = 1, keys_count, 3 do write(keys[i], keys[i + 2]) end
local others, others_count = unpacked(ARGV[7])
for i = 1, others_count, 2 do write(others[i], others[i + 1]) end
flush('HSET', set)
flush('HDEL', deleted)
for i = 1, guards_count, 3 do redis.call('HSET', guarded, guards[i], guards[i + 2]) end
local fields, fields_count = unpacked(ARGV[8])
for i = 1, fields_count, 2 do redis.call('HSET', meta, fields[i], fields[i + 1]) end
if epoch > tonumber(last) then redis.call('HSET', meta, 'epoch', ARGV[2]) end
if waiting and tonumber(waiting) <= epoch and not shared then redis.call('DEL', foretold) end
return {'ok'}
