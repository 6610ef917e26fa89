-- Opens a pipeline's state, and where it is for one process alone takes it over.
--
-- KEYS: meta. ARGV: 1 format, 2 "alone" or "shared", 3 the owner.
-- Answers {"ok"}, {"format", the stored one}, {"use", the stored one}.
local meta = KEYS[1]
local format = redis.call('HGET', meta, 'format')
if format and format ~= ARGV[1] then return {'format', format} end
local use = redis.call('HGET', meta, 'use')
if use and use ~= ARGV[2] then return {'use', use} end
redis.call('HSET', meta, 'format', ARGV[1])
if ARGV[2] == 'alone' then redis.call('HSET', meta, 'owner', ARGV[3]) end
return {'ok'}
