-- Keeps facts that an epoch's outputs depend on, if the state is still this process's.
--
-- KEYS: meta, foretold. ARGV: 1 the owner's token, 2 epoch, 3 facts. Answers {"ok"} or {"fenced", "owner"}.
local owner = redis.call('HGET', KEYS[1], 'owner') or ''
if string.sub(owner, 1, #ARGV[1]) ~= ARGV[1] then return {'fenced', 'owner'} end
redis.call('HSET', KEYS[2], 'epoch', ARGV[2], 'facts', ARGV[3])
return {'ok'}
