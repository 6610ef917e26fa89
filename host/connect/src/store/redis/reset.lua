-- Forgets everything but the generation, which it raises by one, and the owner.
--
-- KEYS: meta, state, foretold, positions. ARGV: 1 format. Answers the generation, as text.
local generation = (redis.call('HGET', KEYS[1], 'generation') or '0') + 1
local owner = redis.call('HGET', KEYS[1], 'owner')
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
generation = string.format('%d', generation)
redis.call('HSET', KEYS[1], 'format', ARGV[1], 'generation', generation)
if owner then redis.call('HSET', KEYS[1], 'owner', owner) end
return generation
